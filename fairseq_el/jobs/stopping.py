"""Signals that ask a job to stop: those of ``kill``, and of SLURM before it ends a job."""

from __future__ import annotations

import shlex
import signal
from types import FrameType
from typing import Any, Dict, List, Optional, Sequence

INTERRUPTED = 3  # the exit status of a job that was asked to stop, and can be resumed
_SIGNALS = [getattr(signal, name) for name in ("SIGTERM", "SIGUSR1") if hasattr(signal, name)]


class StopSignals:
    """Within this context, SIGTERM and SIGUSR1 are noted instead of ending the process. A second one ends it.

    The job looks at :attr:`asked` between results. All results that it has are in its journal by then.

    Attributes:
        asked: the name of the signal that came, such as ``SIGTERM``; None if none has come.
    """

    def __init__(self) -> None:
        self.asked: Optional[str] = None
        self._before: Dict[int, Any] = {}

    def __enter__(self) -> StopSignals:
        self._before = {number: signal.signal(number, self._note) for number in _SIGNALS}
        return self

    def __exit__(self, *unused: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: Optional[FrameType]) -> None:
        self.asked = signal.Signals(number).name
        for each in _SIGNALS:
            signal.signal(each, signal.SIG_DFL)


def resuming_command(arguments: Sequence[str]) -> str:
    """The command line that goes on with an interrupted job: the same one, with ``--resume``."""
    given: List[str] = list(arguments)
    return shlex.join(given if "--resume" in given else [*given, "--resume"])
