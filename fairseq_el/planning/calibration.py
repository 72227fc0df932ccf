"""The rates with which the cost model comes closest to what was measured."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Dict, Optional, Tuple

from fairseq_el.planning.cross_attention_cost import operations_seconds
from fairseq_el.planning.operations import CrossAttentionShape, Operation, cross_attention_operations
from fairseq_el.planning.rates import Rates

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

    def work(self, operation: str, element_size: int) -> Tuple[Operation, ...]:
        """What an operation in ``OPERATIONS`` does; ``"copy"`` copies a memory."""
        if operation == "copy":
            return (Operation("copy", 0, 2 * self.batch * self.src_len * self.width * element_size),)
        model = CrossAttentionShape(1, self.heads, self.width, self.width)
        backend = "el" if operation == "el" else "shared-kv"
        work = cross_attention_operations(backend, model, self.batch, self.beam, self.src_len, element_size)
        return work.once if operation == "projection" else work.step


TINY_LAYER = LayerSize(1, 1, 8, 1, 64)  # next to no work: what is left is calling it
DECIDED_BY = {"stream": "copy", "bandwidth": "shared-kv", "shared": "el", "dense": "projection"}
LAYER_SIZES = (
    LayerSize(16, 4, 1024, 16, 1024),
    LayerSize(16, 1, 1024, 16, 1024),
    LayerSize(4, 4, 1024, 16, 1024),
    LayerSize(32, 4, 256, 16, 1024),
    LayerSize(16, 8, 512, 8, 512),
    LayerSize(64, 5, 32, 8, 512),
)


@dataclass(frozen=True)
class Measurement:
    """One operation of one layer: seconds measured, and predicted with the rates that fit all measurements best."""

    dtype: str
    operation: str
    size: LayerSize
    measured: float
    predicted: float

    @property
    def error(self) -> float:
        """Of the prediction, relative to what was measured; negative if it is too short."""
        return self.predicted / self.measured - 1


@dataclass(frozen=True)
class Calibration:
    """The rates of a device by dtype, and what they were made from.

    Attributes:
        cores: processors that this process had while it multiplied on a CPU; fewer than torch's threads if other
            programs were running, or if there are fewer, and then nothing else here is worth anything.
    """

    device: str
    rates: Dict[str, Rates]
    measurements: Tuple[Measurement, ...]
    cores: Optional[float]

    @property
    def largest_error(self) -> float:
        return max(abs(measurement.error) for measurement in self.measurements)


def fit(measured: Dict[Tuple[str, LayerSize], float], element_size: int, start: Rates) -> Rates:
    """The rates with which predictions come closest to seconds measured, by operation and size.

    One number after the other, each from the measurements that it decides: closest is the least sum of absolute
    logarithms of predicted over measured, which, as a median does, bears with a few measurements that went wrong.

    Args:
        start: rates within a factor of a thousand.
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
    return operations_seconds(size.work(operation, element_size), rates)
