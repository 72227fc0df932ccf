"""Lines read ahead, a window at a time, and cut into batches of similar lengths."""

from __future__ import annotations

from itertools import islice
from typing import Callable, Iterable, Iterator, List, Optional, Sequence, TypeVar

Item = TypeVar("Item")


def windows(items: Iterable[Item], size: Optional[int]) -> Iterator[List[Item]]:
    """Lists of ``size`` items in their order; all in one list if ``size`` is None. No item is read before its turn."""
    remaining = iter(items)
    while True:
        window = list(islice(remaining, size))
        if not window:
            return
        yield window


def batches(lengths: Sequence[int], fits: Callable[[int], int], in_order: bool = False) -> Iterator[List[int]]:
    """Batches of items, given by their places.

    Args:
        lengths: of the items.
        fits: how many items a batch has room for, at least one, given the length of its longest.
        in_order: leave the items in their order. Otherwise the longest come first.
    """
    places = list(range(len(lengths)))
    if not in_order:
        places.sort(key=lambda place: -lengths[place])
    batch: List[int] = []
    longest = 0
    for place in places:
        longest = max(longest, lengths[place])
        if batch and len(batch) >= fits(longest):
            yield batch
            batch, longest = [], lengths[place]
        batch.append(place)
    if batch:
        yield batch
