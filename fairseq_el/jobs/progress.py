"""The progress of a job, added up from the parts of its journal and the status files of its workers."""

from __future__ import annotations

import collections
import time
from dataclasses import dataclass
from pathlib import Path
from typing import List, Optional, Tuple

from fairseq_el.files import CHUNK
from fairseq_el.jobs.journal import finished_lines, parts_in
from fairseq_el.jobs.run_file import read_run
from fairseq_el.jobs.status import RUNNING, Status, statuses_in

_SILENT = 120.0  # seconds without news
_UNITS = ((86400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s"))


@dataclass(frozen=True)
class Progress:
    """The progress of a job.

    Attributes:
        done: lines that have a result. Until the job is finished, lines that were decoded twice count twice.
        total: lines of the input; None for a pipe that has not ended.
        finished: whether all lines have a result.
        sentences_per_second: of all workers that run, together.
        tokens_per_second: in the best hypotheses, with the ends of sentences.
        seconds_left: at this speed; None if it is not known.
        held_back: results that wait for an earlier line.
        restarts: attempts that wrote results, beyond the first of each worker.
        workers: their latest statuses.
        silent: names of workers that run by their status, but have not written one for two minutes.
    """

    done: int
    total: Optional[int]
    finished: bool
    sentences_per_second: float
    tokens_per_second: float
    seconds_left: Optional[float]
    held_back: int
    restarts: int
    workers: Tuple[Status, ...]
    silent: Tuple[str, ...]


def progress_of(directory: Path) -> Progress:
    """Reads the progress of the job with this journal. Its workers may be running.

    Raises:
        FairseqElError: the directory has no journal.
    """
    run, _ = read_run(directory)
    finished = finished_lines(directory)
    total = finished if run.input.lines is None else run.input.lines
    workers, parts = statuses_in(directory), parts_in(directory)
    silent = [one.worker for one in workers if one.state == RUNNING and time.time() - one.written_at > _SILENT]
    running = [one for one in workers if one.state == RUNNING and one.worker not in silent]
    done = finished if finished is not None else sum(_num_lines(part.path) for part in parts)
    sentences = sum(_rate(one.sentences, one) for one in running)
    left = None if total is None else max(total - done, 0)
    return Progress(
        done=done if total is None else min(done, total),
        total=total,
        finished=finished is not None,
        sentences_per_second=sentences,
        tokens_per_second=sum(_rate(one.tokens, one) for one in running),
        seconds_left=0.0 if left == 0 else left / sentences if left is not None and sentences else None,
        held_back=sum(one.held_back for one in running),
        restarts=len(parts) - len(collections.Counter(part.worker for part in parts)),
        workers=tuple(workers),
        silent=tuple(silent),
    )


def progress_lines(progress: Progress) -> List[str]:
    """The progress for a person, a thing a line."""
    if progress.total:
        done = f"{progress.done:,} of {progress.total:,} lines ({progress.done / progress.total:.1%})"
    else:
        done = f"{progress.done:,} lines" + ("" if progress.total is None else f" of {progress.total:,}")
    speed = f"{progress.sentences_per_second:,.1f} sentences/s, {progress.tokens_per_second:,.1f} tokens/s"
    left = "not known" if progress.seconds_left is None else format_duration(progress.seconds_left)
    states = collections.Counter(
        "silent for two minutes" if one.worker in progress.silent else one.state for one in progress.workers
    )
    workers = ", ".join(f"{count} {state}" for state, count in sorted(states.items())) or "none has begun"
    return [
        f"done       {done}",
        f"speed      {speed}",
        f"left       {left}",
        f"held back  {progress.held_back:,}",
        f"restarts   {progress.restarts:,}",
        f"workers    {workers}",
        *(f"           {_where(one)}" for one in progress.workers if one.worker in progress.silent),
    ]


def progress_line(progress: Progress) -> str:
    """The progress in one line."""
    done = f"{progress.done:,}" if progress.total is None else f"{progress.done:,} of {progress.total:,}"
    parts = [f"{done} lines"]
    parts.append(f"{progress.sentences_per_second:,.1f} sentences/s, {progress.tokens_per_second:,.0f} tokens/s")
    if progress.seconds_left:
        parts.append(f"{format_duration(progress.seconds_left)} left")
    if progress.restarts:
        parts.append(f"{progress.restarts:,} restarts")
    return ", ".join(parts)


def format_duration(seconds: float) -> str:
    """``3 d 4 h``, ``2 h 5 min``, ``1 min 30 s`` or ``12 s``."""
    whole = round(seconds)
    for size, unit, smaller, smaller_unit in _UNITS:
        if whole >= size:
            return f"{whole // size} {unit} {whole % size // smaller} {smaller_unit}"
    return f"{whole} s"


def _rate(count: int, status: Status) -> float:
    return count / status.seconds if status.seconds > 0 else 0.0


def _where(status: Status) -> str:
    since = format_duration(max(time.time() - status.written_at, 0.0))
    return f"no news for {since} from worker {status.worker}, process {status.pid} on {status.host}"


def _num_lines(path: Path) -> int:
    with path.open("rb") as file:
        return sum(chunk.count(b"\n") for chunk in iter(lambda: file.read(CHUNK), b""))
