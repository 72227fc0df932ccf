"""The progress of a job on standard error: a bar on a terminal, else a line now and then."""

from __future__ import annotations

import contextlib
import sys
import time
from types import TracebackType
from typing import Any, Callable, Optional, Type

from fairseq_el.jobs import Meter

SECONDS = 30  # between two lines


class ProgressBar:
    """Shows what a meter has counted."""

    def __init__(self, meter: Meter, clock: Callable[[], float] = time.monotonic):
        """``clock``: gives seconds."""
        self._meter, self._clock, self._shown = meter, clock, clock()
        self._bar: Any = None

    def __enter__(self) -> ProgressBar:
        if sys.stderr.isatty():
            from tqdm import tqdm

            self._bar = tqdm(total=self._meter.total, unit="line", dynamic_ncols=True)
        return self

    def __exit__(
        self,
        kind: Optional[Type[BaseException]],
        error: Optional[BaseException],
        traceback: Optional[TracebackType],
    ) -> None:
        if self._bar is not None:
            self._bar.close()

    def show(self, held_back: int) -> None:
        """Shows the progress if it is time to. ``held_back``: results that wait for an earlier line."""
        if self._bar is not None:
            self._bar.set_postfix(held_back=held_back, failed=self._meter.failed, refresh=False)
            self._bar.update(self._meter.lines - self._bar.n)
        elif self._clock() - self._shown >= SECONDS:
            self._shown = self._clock()
            with contextlib.suppress(OSError):
                sys.stderr.write(f"fairseq-el: {self._meter.line(held_back)}\n")
                sys.stderr.flush()
