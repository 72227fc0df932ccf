"""The places of results in the parts of a journal: 12 bytes for a line of input, whatever its result."""

from __future__ import annotations

from array import array
from typing import Iterable, Iterator, NamedTuple, Optional


class Place(NamedTuple):
    """The place of a record: the part, by its number in the journal's list, and the byte at which its line begins."""

    part: int
    offset: int


class RecordIndex:
    """A map from numbers of lines to places. Its length is the number of lines that have a place."""

    def __init__(self) -> None:
        self._parts = array("i")
        self._offsets = array("q")  # -1: none
        self._length = 0

    def __len__(self) -> int:
        return self._length

    def __contains__(self, number: int) -> bool:
        return number < len(self._offsets) and self._offsets[number] >= 0

    def find(self, number: int) -> Optional[Place]:
        """The place of a line's record; None if it has none."""
        return Place(self._parts[number], self._offsets[number]) if number in self else None

    def add(self, number: int, place: Place) -> None:
        """Notes the place of a line that has none."""
        missing = number + 1 - len(self._offsets)
        if missing > 0:
            room = max(missing, len(self._offsets))
            self._parts.extend(array("i", [0]) * room)
            self._offsets.extend(array("q", [-1]) * room)
        self._parts[number], self._offsets[number] = place
        self._length += 1

    @property
    def end(self) -> int:
        """One more than the highest number."""
        return next((number + 1 for number in range(len(self._offsets) - 1, -1, -1) if number in self), 0)

    def missing(self, numbers: Iterable[int]) -> Iterator[int]:
        """Those numbers that have no place."""
        return (number for number in numbers if number not in self)
