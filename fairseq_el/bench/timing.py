"""From measured times to figures. All plain arithmetic."""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass
from typing import Dict, List, Optional, Sequence, TypeVar

Item = TypeVar("Item")


@dataclass(frozen=True)
class Spread:
    median: float
    minimum: float
    maximum: float


def spread(values: Sequence[float]) -> Spread:
    return Spread(statistics.median(values), min(values), max(values))


def times_faster(seconds: Sequence[float], baseline: Sequence[float]) -> Spread:
    """How many times as fast as the baseline: the ratio in every round, and of these the median.

    A round's calls are next to each other in time, so what slows the machine down for a while does not show in ratios.
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
