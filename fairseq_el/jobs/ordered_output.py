"""Results that come in any order, written in the order of the lines of input."""

from __future__ import annotations

from typing import Callable, Dict, Iterable, Iterator, Optional

from fairseq_el.jobs.formats import formatted
from fairseq_el.jobs.result import Result

HELD_BACK = 64 << 20  # bytes of output that wait in memory
_CHUNK = 1 << 16  # bytes that are written at once
_OVERHEAD = 160  # bytes that Python needs to keep a text, beside its own

ReadBack = Callable[[int], Optional[Result]]


class OrderedOutput:
    """Writes the text of each result as soon as those of all lines before it are written.

    Text that waits for an earlier line is kept in memory up to a limit. What is beyond it is read back from the
    journal when its turn has come.

    Args:
        write: is given bytes, one time after the other.
        format_name: one of ``FORMATS``.
        read_back: gives the result of a line, or None if it has none yet. Without it, memory has no limit.
        limit: bytes that are kept in memory.

    Attributes:
        next: the number of the first line that is not written yet.
        in_memory: bytes that wait in memory.
        problems: why lines have failed, by their numbers from 0; of all lines that have come so far.
    """

    def __init__(
        self,
        write: Callable[[bytes], object],
        format_name: str,
        read_back: Optional[ReadBack] = None,
        limit: int = HELD_BACK,
    ):
        self.next, self.in_memory = 0, 0
        self._write, self._format, self._read_back, self._limit = write, format_name, read_back, limit
        self.problems: Dict[int, str] = {}
        self._texts: Dict[int, bytes] = {}

    @property
    def num_in_memory(self) -> int:
        """Results that wait in memory."""
        return len(self._texts)

    def put(self, results: Iterable[Result]) -> None:
        """Takes results, and writes what can be written. A second result of a line does nothing."""
        for result in results:
            if result.number < self.next or result.number in self._texts:
                continue
            text = self._text(result)
            size = len(text) + _OVERHEAD
            if self._read_back is None or result.number == self.next or self.in_memory + size <= self._limit:
                self._texts[result.number] = text
                self.in_memory += size
        self.advance()

    def advance(self) -> None:
        """Writes what can be written; at first, of a journal that has results already."""
        chunk = bytearray()
        for text in self._following():
            chunk += text
            if len(chunk) >= _CHUNK:
                self._write(bytes(chunk))
                chunk.clear()
        if chunk:
            self._write(bytes(chunk))

    def _following(self) -> Iterator[bytes]:
        """Yields the texts of the next lines, as far as they are there."""
        while True:
            text = self._texts.pop(self.next, None)
            if text is not None:
                self.in_memory -= len(text) + _OVERHEAD
            else:
                result = self._read_back(self.next) if self._read_back is not None else None
                if result is None:
                    return
                text = self._text(result)
            self.next += 1
            yield text

    def _text(self, result: Result) -> bytes:
        if result.problem:
            self.problems[result.number] = result.problem
        return formatted(result, self._format).encode("utf-8", "surrogatepass")
