"""Calibration: measures the operations that decoding runs, and fits the rates of the cost model to them.

The rates are those of :mod:`fairseq_el.planning.rates`. ``fairseq-el calibrate`` shows and writes them.
"""

from __future__ import annotations

import itertools
import math
import statistics
import time
from dataclasses import dataclass, replace
from typing import Callable, Dict, Iterator, List, Optional, Sequence, Tuple

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from fairseq_el.dtypes import DTYPES
from fairseq_el.measure import seconds_of
from fairseq_el.ops import el_attention, kv_attention
from fairseq_el.planning.cross_attention_cost import operations_seconds
from fairseq_el.planning.operations import BACKENDS, CrossAttentionShape, Operation, cross_attention_operations
from fairseq_el.planning.rates import Rates, default_rates

OPERATIONS = ("el", "shared-kv", "projection", "copy")


@dataclass(frozen=True)
class LayerSize:
    """``B``, ``b``, ``n``, ``h`` and ``d`` of one layer."""

    batch: int
    beam: int
    src_len: int
    heads: int
    width: int

    def __str__(self) -> str:
        return f"{self.batch} x {self.beam} x {self.src_len:,}, {self.heads} heads, width {self.width:,}"

    def operations(self, name: str, element_size: int) -> Tuple[Operation, ...]:
        """The operations that were measured as ``name``, which is in ``OPERATIONS``; ``"copy"`` copies a memory."""
        if name == "copy":
            return (Operation("copy", 0, 2 * self.batch * self.src_len * self.width * element_size),)
        model = CrossAttentionShape(1, self.heads, self.width, self.width)
        backend = "el" if name == "el" else "shared-kv"
        found = cross_attention_operations(backend, model, self.batch, self.beam, self.src_len, element_size)
        return found.once if name == "projection" else found.step


TINY_LAYER = LayerSize(1, 1, 8, 1, 64)  # takes little more than the time of a call
DECIDED_BY = {"stream": "copy", "bandwidth": "shared-kv", "shared": "el", "dense": "projection"}
LAYER_SIZES = (
    LayerSize(16, 4, 1024, 16, 1024),
    LayerSize(16, 1, 1024, 16, 1024),
    LayerSize(4, 4, 1024, 16, 1024),
    LayerSize(32, 4, 256, 16, 1024),
    LayerSize(16, 8, 512, 8, 512),
    LayerSize(64, 5, 32, 8, 512),
)
_NO_CACHE_HOLDS = 256 << 20  # bytes of keys and values that are read in turn, as those of a model's layers are


@dataclass(frozen=True)
class OperationTime:
    """One operation of one layer: seconds measured, and predicted with the rates that fit all measurements best."""

    dtype: str
    operation: str
    size: LayerSize
    measured: float
    predicted: float

    @property
    def error(self) -> float:
        """The error of the prediction, as a share of the measured time; negative if it is too short."""
        return self.predicted / self.measured - 1


@dataclass(frozen=True)
class Calibration:
    """The rates of a device by dtype, and the measurements that they come from.

    Attributes:
        cores: cores that this process had while it multiplied on a CPU. If they are fewer than torch's threads, the
            rates are wrong: other programs were running, or the machine has fewer cores.
    """

    device: str
    rates: Dict[str, Rates]
    measurements: Tuple[OperationTime, ...]
    cores: Optional[float]

    @property
    def largest_error(self) -> float:
        return max(abs(measurement.error) for measurement in self.measurements)


def num_measurements(dtypes: Sequence[str]) -> int:
    """The number of times that :func:`calibrate` reports progress."""
    return len(dtypes) * (len(BACKENDS) + len(OPERATIONS) * len(LAYER_SIZES))


def calibrate(device: str, dtypes: Sequence[str], progress: Callable[[str], None]) -> Calibration:
    """Measures the rates of a device, in about 10 seconds per dtype on two cores that are free.

    Nothing else should be running: products of two processes that both use all cores wait for each other.

    Args:
        device: ``"cpu"`` or ``"cuda"``.
        dtypes: names in ``DTYPES``.
        progress: called after each of :func:`num_measurements` with what was measured.
    """
    rates, measurements, cores = {}, [], []
    for dtype in dtypes:
        measured: Dict[Tuple[str, LayerSize], float] = {}
        with torch.no_grad():
            for operation, size, call in _calls(device, dtype):
                begin, of_process = time.perf_counter(), time.process_time()
                measured[operation, size] = _seconds(call, device)
                if operation == "projection":
                    cores.append((time.process_time() - of_process) / (time.perf_counter() - begin))
                progress(f"{dtype} {operation} {size}")
        rates[dtype] = fit(measured, DTYPES[dtype].num_bytes, default_rates(device, dtype))
        measurements += [
            OperationTime(
                dtype, operation, size, seconds, predict(operation, size, DTYPES[dtype].num_bytes, rates[dtype])
            )
            for (operation, size), seconds in measured.items()
        ]
    return Calibration(device, rates, tuple(measurements), min(cores) if device == "cpu" else None)


def _calls(device: str, dtype: str) -> Iterator[Tuple[str, LayerSize, Callable[[], object]]]:
    """All that is measured: the operation, its size, and the call."""
    for size in (TINY_LAYER, *LAYER_SIZES):
        for operation, call in zip(
            OPERATIONS, _operations(size, device, DTYPES[dtype].torch_dtype, DTYPES[dtype].num_bytes)
        ):
            if size != TINY_LAYER or operation in BACKENDS:
                yield operation, size, call


def _operations(
    size: LayerSize, device: str, dtype: torch.dtype, element_size: int
) -> Tuple[Callable[[], object], ...]:
    """``OPERATIONS`` on random numbers."""

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, device=device).to(dtype)

    head_dim = size.width // size.heads
    query = draw(size.batch, size.beam, size.heads, head_dim)
    memory = draw(size.batch, size.src_len, size.width)
    key_weight, value_weight = (draw(size.width, size.width) / size.width**0.5 for _ in range(2))
    keys = draw(size.batch, size.heads, size.src_len, head_dim)
    num_layers = min(12, max(2, _NO_CACHE_HOLDS // (2 * keys.numel() * element_size)))
    layers = itertools.cycle([(keys.clone(), keys.clone()) for _ in range(num_layers)])

    def project() -> List[Tensor]:
        heads = (size.batch, size.src_len, size.heads, head_dim)
        projected = (F.linear(memory, weight) for weight in (key_weight, value_weight))
        return [tensor.view(heads).transpose(1, 2).contiguous() for tensor in projected]

    def el() -> object:
        return el_attention(query, memory, key_weight, value_weight, softmax_dtype=torch.float32, need_weights=False)

    def shared_kv() -> object:
        return kv_attention(query, *next(layers), softmax_dtype=torch.float32)

    target = torch.empty_like(memory)
    return el, shared_kv, project, lambda: target.copy_(memory)


def _seconds(call: Callable[[], object], device: str) -> float:
    """The median of several runs, each of as many calls as take some milliseconds, after two calls to warm up."""

    def repeated() -> None:
        for _ in range(num_calls):
            call()

    once = min(seconds_of(call, device) for _ in range(2))
    num_calls = max(1, min(200, int(0.005 / once)))
    num_runs = max(5, min(25, int(0.2 / (once * num_calls))))
    return statistics.median(seconds_of(repeated, device) for _ in range(num_runs)) / num_calls


def fit(measured: Dict[Tuple[str, LayerSize], float], element_size: int, start: Rates) -> Rates:
    """The rates with which predictions come closest to measured seconds.

    Each rate is fitted to the measurements that it decides, one after the other. The distance is the sum of
    ``|log(predicted / measured)|``: like a median, a few wrong measurements hardly move it.

    Args:
        measured: seconds by operation and size.
        start: rates that are right within a factor of a thousand.
    """
    tiny = {key: seconds for key, seconds in measured.items() if key[1] == TINY_LAYER}
    rates = _fit_one(start, "launch", tiny, element_size)
    for field, operation in DECIDED_BY.items():
        deciding = {key: seconds for key, seconds in measured.items() if key[0] == operation and key not in tiny}
        rates = _fit_one(rates, field, deciding, element_size)
    return rates


def _fit_one(rates: Rates, field: str, measured: Dict[Tuple[str, LayerSize], float], element_size: int) -> Rates:
    def distance(candidate: Rates) -> float:
        return sum(
            abs(math.log(predict(operation, size, element_size, candidate) / seconds))
            for (operation, size), seconds in measured.items()
        )

    start = getattr(rates, field)
    candidates = (replace(rates, **{field: start * 1.02**power}) for power in range(-350, 351))
    return min(candidates, key=distance)  # of equals, the slowest


def predict(operation: str, size: LayerSize, element_size: int, rates: Rates) -> float:
    """Seconds of one layer by the cost model."""
    return operations_seconds(size.operations(operation, element_size), rates)
