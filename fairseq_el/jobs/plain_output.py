"""Results that come in any order, written in the order of the lines, without a journal."""

from __future__ import annotations

from typing import Callable, Dict

from fairseq_el.jobs.formats import formatted
from fairseq_el.jobs.result import Result


class PlainOutput:
    """Writes the lines of each result as soon as those of all lines before it are written.

    Attributes:
        next: the number of the first line that is not written yet.
    """

    def __init__(self, write: Callable[[bytes], object], format_name: str):
        """
        Args:
            write: is given text in UTF-8, one piece after the other.
            format_name: one of ``FORMATS``.
        """
        self.next = 0
        self._write, self._format = write, format_name
        self._waiting: Dict[int, Result] = {}

    @property
    def held_back(self) -> int:
        """Results that wait for an earlier line."""
        return len(self._waiting)

    def write(self, *results: Result) -> None:
        """Takes results of lines, in any order; each line once."""
        self._waiting.update({result.number: result for result in results})
        ready = []
        while self.next in self._waiting:
            ready.append(formatted(self._waiting.pop(self.next), self._format))
            self.next += 1
        if ready:
            self._write("".join(ready).encode("utf-8", "surrogatepass"))
