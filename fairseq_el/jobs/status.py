"""The status file of a worker: how far it is, for ``fairseq-el progress``."""

from __future__ import annotations

import json
import logging
import os
import re
import socket
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import List, Optional, Sequence

from fairseq_el.errors import FairseqElError
from fairseq_el.files import read_json, write_whole
from fairseq_el.jobs.result import Result

RUNNING, STOPPED, FINISHED = "running", "stopped", "finished"
_EVERY = 10.0  # seconds
_NAME = re.compile(r"status-(.+)\.json")

logger = logging.getLogger(__name__)


@dataclass
class Status:
    """The state of one worker's latest attempt.

    Attributes:
        worker: its name.
        state: ``RUNNING``, ``STOPPED`` (by a signal or an error), or ``FINISHED``.
        written_at: when this was written, in seconds since 1970.
        seconds: since the first sentence was taken; loading the model is not in it.
        sentences: results of this attempt.
        tokens: words of their best hypotheses, with the ends of sentences.
        held_back: results that wait for an earlier line.
        host: name of the machine.
        pid: of the process.
    """

    worker: str
    state: str = RUNNING
    written_at: float = 0.0
    seconds: float = 0.0
    sentences: int = 0
    tokens: int = 0
    held_back: int = 0
    host: str = ""
    pid: int = 0


class StatusFile:
    """Writes the status of this process every ten seconds, while results come.

    Attributes:
        status: the latest counts.
    """

    def __init__(self, directory: Path, worker: str):
        self.status = Status(worker, host=socket.gethostname(), pid=os.getpid())
        self._path = directory / f"status-{worker}.json"
        self._began: Optional[float] = None
        self._written = -_EVERY

    def begin(self) -> None:
        """Starts the clock, once."""
        if self._began is None:
            self._began = time.monotonic()

    def count(self, results: Sequence[Result], held_back: int) -> None:
        """Counts results, and writes the file, if ten seconds have passed since it was written."""
        self.status.sentences += len(results)
        self.status.tokens += sum(len(one.hypotheses[0].positional_scores) for one in results if one.hypotheses)
        self.status.held_back = held_back
        if time.monotonic() - self._written >= _EVERY:
            self.write(RUNNING)

    def write(self, state: str) -> None:
        """Writes the file. A job goes on without it, if it can't be written."""
        self._written = time.monotonic()
        self.status.state, self.status.written_at = state, time.time()
        self.status.seconds = self._written - self._began if self._began is not None else 0.0
        text = json.dumps(asdict(self.status)) + "\n"
        try:
            write_whole(self._path, lambda unfinished: unfinished.write_text(text, "utf-8"), replace=True)
        except (OSError, FairseqElError) as error:
            logger.warning("the status was not written: %s", error)


def statuses_in(directory: Path) -> List[Status]:
    """The statuses of a journal's workers, by name. Files that can't be read are left out."""
    found = []
    for path in sorted(directory.iterdir()):
        if _NAME.fullmatch(path.name):
            try:
                found.append(Status(**read_json(path)))
            except (FairseqElError, OSError, TypeError) as error:
                logger.warning("%s is left out: %s", path, error)
    return found
