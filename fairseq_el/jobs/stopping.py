"""Signals that ask a job to stop: those of ``kill``, and of SLURM before it ends a job."""

from __future__ import annotations

import os
import shlex
import signal
from types import FrameType
from typing import Any, Dict, List, Optional, Sequence

from fairseq_el.errors import StoppedError

INTERRUPTED = StoppedError.exit_status  # of a job that was asked to stop, and can be resumed
LAUNCHER = "FAIRSEQ_EL_LAUNCHER"  # names the process by whose end a worker ends
_SIGNALS = [getattr(signal, name) for name in ("SIGTERM", "SIGUSR1") if hasattr(signal, name)]


class StopSignals:
    """Within this context, SIGTERM and SIGUSR1 are noted instead of ending the process. A second one ends it.

    The job looks at :attr:`asked` between results. All results that it has are in its journal by then.

    Args:
        launcher: the number of the process that has started this one as a worker. Its end stops the worker; it ends
            the worker itself, so a second signal does nothing more.
    """

    def __init__(self, launcher: Optional[int] = None) -> None:
        self._launcher, self._signal = launcher, ""
        self._before: Dict[int, Any] = {}

    @property
    def asked(self) -> Optional[str]:
        """The name of the signal that came, such as ``SIGTERM``; None if the job is to go on."""
        if not self._signal and self._launcher is not None and os.getppid() != self._launcher:
            return "the end of its launcher"
        return self._signal or None

    def __enter__(self) -> StopSignals:
        self._before = {number: signal.signal(number, self._note) for number in _SIGNALS}
        return self

    def __exit__(self, *unused: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: Optional[FrameType]) -> None:
        self._signal = signal.Signals(number).name
        if self._launcher is None:
            for each in _SIGNALS:
                signal.signal(each, signal.SIG_DFL)


def resuming_command(arguments: Sequence[str]) -> str:
    """The command line that goes on with an interrupted job: the same one, with ``--resume``."""
    given: List[str] = list(arguments)
    return shlex.join(given if "--resume" in given else [*given, "--resume"])
