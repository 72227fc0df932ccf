"""Steps captured in CUDA graphs, which a card replays without being told of every kernel.

In each thread of the host, all graphs of a card share one memory pool and one stream: what a step computes in between
is not used after it. Only one step runs at a time. The last graph keeps the pool for the next one. A search that
runs out of memory lets it go.
"""

from __future__ import annotations

import contextlib
import gc
import threading
from typing import Any, Callable, ContextManager, Dict, Iterator

import torch

from fairseq_el._compat import torch_version

OLDEST_TORCH = (2, 1)  # before, a capture forbids other threads to allocate


class _OfThread(threading.local):
    """The graphs and streams that a thread has on each card.

    On a stream that another thread captures, launches would be captured too.
    """

    def __init__(self) -> None:
        self.last: Dict[torch.device, Any] = {}  # graphs
        self.streams: Dict[torch.device, Any] = {}


_here = _OfThread()


def captured(step: Callable[[], None], device: torch.device) -> Callable[[], None]:
    """Captures a step, which must have run on this stream before, and returns what replays it.

    Nothing is computed. The stream must not be the default one.

    Raises:
        RuntimeError: the step does something that a graph can't hold, or there is too little memory.
    """
    graph: Any = torch.cuda.CUDAGraph()
    pool = _here.last[device].pool() if device in _here.last else torch.cuda.graph_pool_handle()
    with _no_garbage_collection():  # which may free memory, and so end the capture
        graph.capture_begin(pool=pool, capture_error_mode="thread_local")
        try:
            step()
        except BaseException:
            with contextlib.suppress(RuntimeError):  # the capture has failed, and says so once more
                graph.capture_end()
            raise
        graph.capture_end()
    _here.last[device] = graph
    replay: Callable[[], None] = graph.replay
    return replay


@contextlib.contextmanager
def _no_garbage_collection() -> Iterator[None]:
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def release_pool(device: torch.device) -> None:
    """Lets go of the memory that this thread's graphs of a card share."""
    _here.last.pop(device, None)


def stream_of_graphs(device: torch.device) -> ContextManager[None]:
    """The stream that graphs are captured and replayed on; both streams wait for each other, at its begin and end."""
    return _stream_of_graphs(device) if device.type == "cuda" else contextlib.nullcontext()


@contextlib.contextmanager
def _stream_of_graphs(device: torch.device) -> Iterator[None]:
    outer = torch.cuda.current_stream(device)
    if device not in _here.streams:
        _here.streams[device] = torch.cuda.Stream(device)
    inner = _here.streams[device]
    inner.wait_stream(outer)
    try:
        with torch.cuda.stream(inner):
            yield
    finally:
        outer.wait_stream(inner)


def why_no_graphs(device: torch.device) -> str:
    """Returns why steps on a device can't be replayed, or ``""`` if they can."""
    if device.type != "cuda":
        return f"the batch is on {device.type}, and CUDA graphs are for cards"
    if torch_version() < OLDEST_TORCH:
        return f"torch is {torch.__version__}, and CUDA graphs are used from 2.1 on"
    return ""
