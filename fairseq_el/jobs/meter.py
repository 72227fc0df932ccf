"""The progress of one process: lines and tokens, per second, and the time that is left."""

from __future__ import annotations

import time
from datetime import timedelta
from typing import Any, Callable, Dict, Optional, Sequence

from fairseq_el.jobs.result import Result


class Meter:
    """Counts results.

    Attributes:
        total: lines of the input; None if that is not known, as of a pipe.
        before: those that had a result before.
        restarts: attempts before this one.
        lines: those that have got a result.
        empty: those that have nothing to decode.
        failed: those that have a problem.
        tokens: of the best hypotheses, with the ends of sentences.
    """

    def __init__(
        self,
        total: Optional[int] = None,
        clock: Callable[[], float] = time.monotonic,
        before: int = 0,
        restarts: int = 0,
    ):
        """The time begins to count. ``clock``: gives seconds."""
        self.total, self.before, self.restarts = total, before, restarts
        self.lines = self.empty = self.failed = self.tokens = 0
        self._clock, self._begun = clock, clock()

    def add(self, results: Sequence[Result]) -> None:
        """Counts results."""
        for result in results:
            self.lines += 1
            self.failed += bool(result.problem)
            self.empty += not result.problem and not result.hypotheses
            self.tokens += len(result.hypotheses[0].positional_scores) if result.hypotheses else 0

    @property
    def seconds(self) -> float:
        """The time since the beginning."""
        return self._clock() - self._begun

    @property
    def done(self) -> int:
        """Lines that have a result."""
        return self.before + self.lines

    def line(self, held_back: int = 0) -> str:
        """The progress in one line.

        Args:
            held_back: results that wait for an earlier line.
        """
        seconds = self.seconds
        done = f"{self.done:,}" if self.total is None else f"{self.done:,} of {self.total:,}"
        parts = [f"{done} lines"]
        if seconds > 0:
            parts.append(f"{self.lines / seconds:,.1f} sentences/s, {self.tokens / seconds:,.0f} tokens/s")
        if self.total is not None and self.lines and self.done < self.total:
            left = timedelta(seconds=round(seconds / self.lines * (self.total - self.done)))
            parts.append(f"{left} left")
        if held_back:
            parts.append(f"{held_back:,} held back")
        if self.failed:
            parts.append(f"{self.failed:,} failed")
        if self.restarts:
            parts.append(f"{self.restarts:,} restarts")
        return ", ".join(parts)

    def stats(self) -> Dict[str, Any]:
        """All figures, for programs."""
        seconds = self.seconds
        return {
            "lines": self.lines,
            "lines_before": self.before,
            "restarts": self.restarts,
            "empty": self.empty,
            "failed": self.failed,
            "tokens": self.tokens,
            "seconds": seconds,
            "sentences_per_second": self.lines / seconds if seconds > 0 else None,
            "tokens_per_second": self.tokens / seconds if seconds > 0 else None,
        }
