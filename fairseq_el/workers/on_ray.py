"""Workers of a job on Ray: an actor class that Ray Data maps over blocks of lines.

Ray starts actors that die again, and gives their blocks to others. The journal is the driver's: when the driver dies,
Ray's work is lost with it, and the journal's is not.
"""

from __future__ import annotations

import json
import logging
import os
import signal
from contextlib import contextmanager
from typing import Any, Dict, Iterable, Iterator, List, Mapping, Sequence, Tuple

from fairseq_el.errors import FairseqElError, OptionError
from fairseq_el.jobs import Result, windows

_BLOCK = 512  # lines: what is decoded again when an actor dies
_ERROR = -1  # stands in the place of a line's number where a block has failed


class RayWorker:
    """Decodes blocks of lines; an actor of Ray holds one.

    Args:
        arguments: DATA and the options of ``fairseq-interactive``.
        settings: of :meth:`~fairseq_el.text.generator.Generator.batches`.
    """

    def __init__(self, arguments: Sequence[str], settings: Mapping[str, Any]):
        from fairseq_el.text import Generator

        logging.getLogger().setLevel(logging.WARNING)
        self._settings = dict(settings)
        self._generator, self._problem = None, ""
        try:
            self._generator = Generator.from_arguments(arguments)
        except FairseqElError as error:  # an exception here would be retried, and then reported by a traceback
            self._problem = str(error)

    def __call__(self, block: Dict[str, Any]) -> Dict[str, List[Any]]:
        """Decodes a block.

        Args:
            block: columns ``number`` and ``line``.

        Returns:
            columns ``number`` and ``result`` (JSON), a row for each line; or one row with an error.
        """
        if self._generator is None:
            return {"number": [_ERROR], "result": [self._problem]}
        lines = list(zip((int(number) for number in block["number"]), map(str, block["line"])))
        try:
            results = [result for batch in self._generator.batches(lines, **self._settings) for result in batch]
        except FairseqElError as error:
            return {"number": [_ERROR], "result": [str(error)]}
        return {
            "number": [result.number for result in results],
            "result": [json.dumps(result.to_json()) for result in results],
        }


def decode_on_ray(
    arguments: Sequence[str], lines: Iterable[Tuple[int, str]], num_workers: int, settings: Mapping[str, Any]
) -> Iterator[List[Result]]:
    """Decodes lines with actors of Ray, on the cluster of RAY_ADDRESS or else on this machine.

    All lines are read first, into Ray's object store, which goes to disk when it is full.

    Args:
        arguments: DATA and the options of ``fairseq-interactive``; all machines must have the files.
        lines: numbers, from 0, and texts.
        num_workers: actors. Each takes a card, if the cluster has cards, or else its part of the cores.
        settings: of :meth:`~fairseq_el.text.generator.Generator.batches`.

    Returns:
        results, block after block in the order of the lines.

    Raises:
        OptionError: Ray is not installed.
        FairseqElError: a line can't be decoded, or the options can't be used.
    """
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # or else actors that die make it print a page
    ray = _import_ray()
    with _session(ray):
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        context = ray.data.DataContext.get_current()
        context.execution_options.preserve_order = True
        context.enable_progress_bars = False
        import pyarrow  # type: ignore[import-untyped,unused-ignore]

        tables = [
            pyarrow.table({"number": [number for number, _ in block], "line": [line for _, line in block]})
            for block in windows(lines, _BLOCK)
        ]
        if not tables:
            return
        needs = _needs(ray.cluster_resources(), num_workers, "--cpu" in arguments)
        decoded = ray.data.from_arrow(tables).map_batches(
            RayWorker,
            fn_constructor_args=(list(arguments), dict(settings)),
            batch_size=_BLOCK,
            compute=ray.data.ActorPoolStrategy(size=min(num_workers, len(tables))),
            **needs,
        )
        for block in decoded.iter_batches(batch_size=None, batch_format="numpy"):
            yield _results_of(block)


def _results_of(block: Mapping[str, Any]) -> List[Result]:
    for number, text in zip(block["number"], block["result"]):
        if number == _ERROR:
            raise FairseqElError(str(text))
    return [Result.from_json(json.loads(str(text))) for text in block["result"]]


def _needs(resources: Mapping[str, float], num_workers: int, on_cpu: bool) -> Dict[str, float]:
    """The resources of one actor."""
    if resources.get("GPU", 0) > 0 and not on_cpu:
        return {"num_cpus": 1, "num_gpus": 1}
    return {"num_cpus": max(int(resources.get("CPU", 1)) // num_workers, 1)}


def _import_ray() -> Any:
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise OptionError(
            f"--engine ray needs Ray, which can't be imported here ({error}). Install it: pip install 'fairseq_el[ray]'"
        ) from error
    return ray


@contextmanager
def _session(ray: Any) -> Iterator[None]:
    """Connects to a cluster, or starts one on this machine for as long as this context lasts."""
    if ray.is_initialized():
        yield
        return
    handler = signal.getsignal(signal.SIGTERM)  # Ray puts one of its own there, which ends the process
    options = {} if os.environ.get("RAY_ADDRESS") else {"include_dashboard": False, "num_cpus": _cores()}
    ray.init(log_to_driver=False, logging_level=logging.ERROR, **options)
    signal.signal(signal.SIGTERM, handler)
    try:
        yield
    finally:
        ray.shutdown()


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
