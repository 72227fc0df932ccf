"""Bytes and seconds: live tensors, memory of the process and of the card, and the spread of several rounds."""

from __future__ import annotations

import gc
import math
import resource
import statistics
import sys
import time
import weakref
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Sequence, TypeVar

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

from fairseq_el._compat import torch_version

# Before torch 2.1 a storage has no Python object that lives as long as it does.
CAN_TRACK = torch_version() >= (2, 1)

Item = TypeVar("Item")


class PeakBytes(TorchDispatchMode):
    """Counts the storages that operators return, for as long as they live. Memory inside an operator is not seen.

    Tensors of another library, such as weights packed for oneDNN, show no storage. Their numbers are counted.
    """

    def __init__(self) -> None:
        super().__init__()
        self.total = 0
        self._peak = 0
        self._known: Any = weakref.WeakKeyDictionary()  # storages, counted or there before

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for tensor in _tensors((args, kwargs)):
            if not tensor.is_mkldnn:
                self._known.setdefault(tensor.untyped_storage(), None)
        result = func(*args, **(kwargs or {}))
        for tensor in _tensors(result):
            if tensor.is_mkldnn:  # made by packing, and handed on by nothing
                self._count(tensor, tensor.numel() * tensor.element_size())
                continue
            storage = tensor.untyped_storage()
            if storage not in self._known:
                self._known[storage] = None
                self._count(storage, storage.nbytes())
        return result

    def _count(self, owner: Any, size: int) -> None:
        self._add(size)
        weakref.finalize(owner, self._add, -size)

    def _add(self, size: int) -> None:
        self.total += size
        self._peak = max(self._peak, self.total)

    def take(self) -> int:
        """The peak since this was last called."""
        peak, self._peak = self._peak, self.total
        return peak


def _tensors(tree: Any) -> List[torch.Tensor]:
    return [leaf for leaf in tree_flatten(tree)[0] if isinstance(leaf, torch.Tensor)]


class ProcessMemory:
    """Resident memory of this process, with Python and all libraries."""

    def now(self) -> int:
        return _resident_bytes("VmRSS")

    def peak(self) -> int:
        return _resident_bytes("VmHWM")

    def reset_peak(self) -> bool:
        """Begins a new peak, and returns whether the system can."""
        try:
            Path("/proc/self/clear_refs").write_text("5")
        except OSError:
            return False
        return True


class CardMemory:
    """Bytes of torch's live tensors on the card; what its allocator holds beyond them is not counted."""

    def now(self) -> int:
        return torch.cuda.memory_allocated()

    def peak(self) -> int:
        return torch.cuda.max_memory_allocated()

    def reset_peak(self) -> bool:
        torch.cuda.reset_peak_memory_stats()
        return True


def _resident_bytes(name: str) -> int:
    """``VmRSS`` (now) or ``VmHWM`` (peak) of this process; where there is no /proc, the peak in both cases.

    getrusage tells a peak too, but it begins with the memory that the parent had when it started this process.
    """
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith(f"{name}:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def peak_bytes(call: Callable[[], object], device: str) -> Optional[int]:
    """Calls it once, and returns the bytes of new live tensors at most; None where torch can't count them.

    The result of the call counts. On a card, the allocator's figures are used.
    """
    gc.collect()
    if device == "cuda":
        wait_for(device)
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call()
        return torch.cuda.max_memory_allocated() - before
    if not CAN_TRACK:
        call()
        return None
    with PeakBytes() as counter:
        call()
    return int(counter.take())


def seconds_of(call: Callable[[], object], device: str = "cpu") -> float:
    """Calls it once, and returns the seconds until the device has finished it."""
    wait_for(device)
    start = time.perf_counter()
    call()
    wait_for(device)
    return time.perf_counter() - start


def wait_for(device: str) -> None:
    """Waits until the card has finished all work that was queued. A CPU queues none."""
    if device == "cuda":
        torch.cuda.synchronize()


@dataclass(frozen=True)
class Spread:
    """The median, the smallest and the largest of several values."""

    median: float
    minimum: float
    maximum: float


def spread(values: Sequence[float]) -> Spread:
    """The :class:`Spread` of at least one value."""
    return Spread(statistics.median(values), min(values), max(values))


def times_faster(seconds: Sequence[float], baseline: Sequence[float]) -> Spread:
    """The speed as a multiple of the baseline's: the spread of the ratios, one for each round.

    A round's calls are next to each other in time, so a machine that is slow for a while does not change the ratios.
    """
    return spread([theirs / mine for mine, theirs in zip(seconds, baseline)])


def step_seconds(seconds: Dict[int, List[float]]) -> List[float]:
    """The time of one decoder step in every round, from outputs of two lengths: what both take drops out.

    Args:
        seconds: of each round, by length.
    """
    short, long = sorted(seconds)
    return [(more - less) / (long - short) for less, more in zip(seconds[short], seconds[long])]


def growth_exponent(lengths: Sequence[float], values: Sequence[float]) -> Optional[float]:
    """``k`` of the power law ``value = c * length^k`` that fits best: least squares of logarithms.

    None with fewer than two lengths, or values that are not positive (differences of times, on a busy machine).
    """
    if len(set(lengths)) < 2 or min(values) <= 0:
        return None
    x, y = [math.log(length) for length in lengths], [math.log(value) for value in values]
    mean_x, mean_y = statistics.mean(x), statistics.mean(y)
    covariance = sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y))
    return covariance / sum((a - mean_x) ** 2 for a in x)


def rotated(items: Sequence[Item], turn: int) -> List[Item]:
    """The items from a later one on, in a circle: in each round another one is first."""
    start = turn % len(items)
    return [*items[start:], *items[:start]]
