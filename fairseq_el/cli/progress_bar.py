"""The progress of a job on standard error: a bar on a terminal, else a line now and then."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Callable, Optional, Type

from fairseq_el.errors import FairseqElError
from fairseq_el.jobs import Meter, Progress, progress_line, progress_of

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

            total, before = self._meter.total, self._meter.before
            self._bar = tqdm(total=total, initial=before, unit="line", dynamic_ncols=True)
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
            self._bar.update(self._meter.done - self._bar.n)
        elif self._clock() - self._shown >= SECONDS:
            self._shown = self._clock()
            _say(self._meter.line(held_back))


class WatchedJob:
    """Shows the progress of the workers of a job, from its journal, while this context lasts."""

    def __init__(self, journal: Path, seconds: float = SECONDS):
        """``seconds``: between two lines."""
        self._journal = journal
        self._ended = threading.Event()
        self._bar: Any = None
        self._seconds = seconds
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> WatchedJob:
        if sys.stderr.isatty():
            from tqdm import tqdm

            self._bar, self._seconds = tqdm(unit="line", dynamic_ncols=True), 2.0
        self._thread.start()
        return self

    def __exit__(self, *unused: object) -> None:
        self._ended.set()
        self._thread.join()
        if self._bar is not None:
            self._bar.close()

    def _watch(self) -> None:
        while not self._ended.wait(self._seconds):
            with contextlib.suppress(OSError, FairseqElError):  # it is only shown
                self._show(progress_of(self._journal))

    def _show(self, progress: Progress) -> None:
        if self._bar is None:
            _say(progress_line(progress))
            return
        self._bar.total = progress.total
        self._bar.set_postfix(restarts=progress.restarts, refresh=False)
        self._bar.update(progress.done - self._bar.n)


def _say(line: str) -> None:
    with contextlib.suppress(OSError):
        sys.stderr.write(f"fairseq-el: {line}\n")
        sys.stderr.flush()
