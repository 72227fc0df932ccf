"""The journal of a job: every result, on disk as soon as it is there, so that a killed job can go on.

``OUT.journal/`` has

- ``run.json``: what the job is, see :mod:`fairseq_el.jobs.run_file`;
- ``part-WORKER-ATTEMPT.jsonl``: results in the order in which they came, a line each. Every attempt of every worker has
  a part of its own, so no file is ever written by two processes;
- ``finished.json``: the number of lines, once all results are there.

All that was decoded is the union of the parts by the numbers of lines. A kill can leave the last line of a part torn:
it is dropped. So is a line with a wrong checksum; it is reported, and its sentence is decoded again.
"""

from __future__ import annotations

import collections
import itertools
import json
import logging
import re
import time
from pathlib import Path
from typing import BinaryIO, Dict, Iterable, Iterator, List, NamedTuple, Optional, Sequence, Tuple

from fairseq_el.errors import FairseqElError
from fairseq_el.files import kind_of, read_json, remove_abandoned
from fairseq_el.jobs.appended_file import AppendedFile
from fairseq_el.jobs.disk import write_whole_to_disk
from fairseq_el.jobs.record_index import Place, RecordIndex
from fairseq_el.jobs.records import line_of, number_in, read_record, record_in, record_of
from fairseq_el.jobs.result import Result
from fairseq_el.jobs.run_file import RUN_FILE, read_run

FINISHED_FILE = "finished.json"
_PART = re.compile(r"part-(.+)-([1-9]\d*)\.jsonl")
_SYNC_EVERY = 1.0  # seconds: a disk can take 10 ms, in which a fast card decodes 50 sentences
_MOST_OPEN = 32  # parts that are open for reading
_MOST_SHOWN = 10  # places in a message

logger = logging.getLogger(__name__)


class Journal:
    """The results of a job, read from all parts and appended to one.

    Args:
        directory: that :func:`~fairseq_el.jobs.run_file.write_run` has written to.
        worker: letters, digits and underscores; the part is written under this name.

    Attributes:
        run: the job.
        worker: the name of this process.
        output: the file that the results are for, if there is one.
        damaged: places of lines with a wrong checksum, for a person.
        conflicts: numbers of lines with two results that differ. The first one is used.
        is_new: whether this process has made the directory.

    Raises:
        FairseqElError: the directory has no journal.
    """

    def __init__(self, directory: Path, worker: str = "0"):
        self.run, self.output = read_run(directory)
        remove_abandoned(directory / RUN_FILE)
        self.directory, self.worker = directory, worker
        self.damaged: List[str] = []
        self.conflicts: List[int] = []
        self.is_new = False
        self._name = f"part-{worker}-{{}}.jsonl"
        self._index = RecordIndex()
        self._own: Optional[AppendedFile] = None
        self._is_synced, self._synced_at = True, time.monotonic()
        self._parts = [part.path for part in parts_in(directory)]
        self._open: collections.OrderedDict[int, BinaryIO] = collections.OrderedDict()
        for part in range(len(self._parts)):
            self._read_part(part)
        self._report()

    def __len__(self) -> int:
        return len(self._index)

    def __contains__(self, number: int) -> bool:
        return number in self._index

    @property
    def is_unused(self) -> bool:
        """Whether this process has made it, and no process has written results to it."""
        return self.is_new and not parts_in(self.directory)

    @property
    def num_attempts(self) -> int:
        """Attempts of all workers, before this one, that have written results."""
        return len(self._parts) - (self._own is not None)

    @property
    def num_lines(self) -> Optional[int]:
        """The number of lines of input; None for a pipe that has not ended."""
        lines = self.run.input.lines
        return finished_lines(self.directory) if lines is None else lines

    @property
    def end(self) -> int:
        """One more than the highest number that has a result."""
        return self._index.end

    def missing(self, numbers: Iterable[int]) -> Iterator[int]:
        """Those numbers that have no result."""
        return self._index.missing(numbers)

    def result(self, number: int) -> Optional[Result]:
        """The result of a line; None if it has none."""
        place = self._index.find(number)
        return None if place is None else read_record(self._record_at(place))[0]

    def line_digest(self, number: int) -> str:
        """The digest of a line of a pipe; empty if it has no result."""
        place = self._index.find(number)
        return "" if place is None else read_record(self._record_at(place))[1]

    def append(self, results: Sequence[Result], line_digests: Optional[Sequence[str]] = None) -> List[Result]:
        """Appends results by one write to this worker's part. They survive this process from then on.

        They are on disk, and survive the machine too, with the first results that come a second later.

        Args:
            results: in any order.
            line_digests: of their lines of input, where the input is a pipe.

        Returns:
            those whose lines had none.

        Raises:
            OSError: they could not be written.
        """
        new: Dict[int, Tuple[Result, bytes]] = {}
        for result, line_digest in zip(results, line_digests or itertools.repeat("")):
            record = record_of(result, line_digest)
            if result.number in new or result.number in self._index:
                place = self._index.find(result.number)
                if not self._compare(record, self._record_at(place) if place else new[result.number][1], result.number):
                    logger.warning("line %d has a second result, which differs and is dropped", result.number + 1)
            else:
                new[result.number] = result, record
        if new:
            self._append([(number, line_of(record)) for number, (_, record) in new.items()])
        return [result for result, _ in new.values()]

    def sync(self) -> None:
        """Waits until the disk has all results."""
        if self._own is not None and not self._is_synced:
            self._own.sync()
        self._is_synced, self._synced_at = True, time.monotonic()

    def note_end(self, num_lines: int) -> None:
        """Notes that all results are there."""
        self.sync()
        if finished_lines(self.directory) != num_lines:
            write_whole_to_disk(self.directory / FINISHED_FILE, json.dumps({"lines": num_lines}) + "\n", replace=True)

    def close(self) -> None:
        """Waits until the disk has all results, and closes the files. Once more does nothing."""
        try:
            self.sync()
        finally:
            for file in self._open.values():
                file.close()
            self._open.clear()
            if self._own is not None:
                self._own.close()
                self._own = None

    def _append(self, lines: List[Tuple[int, bytes]]) -> None:
        if self._own is None:
            self._own = AppendedFile(self.directory, self._name)
            self._parts.append(self._own.path)
        offset = self._own.append(b"".join(line for _, line in lines))
        for number, line in lines:
            self._index.add(number, Place(len(self._parts) - 1, offset))
            offset += len(line)
        self._is_synced = False
        if time.monotonic() - self._synced_at >= _SYNC_EVERY:
            self.sync()

    def _read_part(self, part: int) -> None:
        with self._parts[part].open("rb") as file:
            offset = 0
            for count, line in enumerate(file, start=1):
                if not line.endswith(b"\n"):  # torn, or being written by another worker
                    return
                record = record_in(line)
                if record is None:
                    self.damaged.append(f"line {count} of {self._parts[part].name}")
                else:
                    self._add(number_in(record), record, Place(part, offset))
                offset += len(line)

    def _add(self, number: int, record: bytes, place: Place) -> None:
        first = self._index.find(number)
        if first is None:
            self._index.add(number, place)
        else:
            self._compare(record, self._record_at(first), number)

    def _compare(self, record: bytes, first: bytes, number: int) -> bool:
        if record != first:
            self.conflicts.append(number)
        return record == first

    def _record_at(self, place: Place) -> bytes:
        """Reads a record again.

        Raises:
            FairseqElError: it was changed since it was found or written.
        """
        file = self._open.pop(place.part, None)
        if file is None:
            if len(self._open) >= _MOST_OPEN:
                self._open.popitem(last=False)[1].close()
            file = self._parts[place.part].open("rb")
        self._open[place.part] = file
        file.seek(place.offset)
        record = record_in(file.readline())
        if record is None:
            raise FairseqElError(
                f"byte {place.offset} of {self._parts[place.part]} and what follows was changed while it was used. "
                "Nothing but this job may write there: run it again with --resume"
            )
        return record

    def _report(self) -> None:
        if self.damaged:
            logger.warning(
                "results are damaged in %s, and their sentences are decoded again: %s",
                self.directory,
                listed(self.damaged),
            )
        if self.conflicts:
            logger.warning(
                "%d lines have two results in %s that differ, of which the first is used: lines %s",
                len(self.conflicts),
                self.directory,
                listed([str(number + 1) for number in self.conflicts]),
            )


class Part(NamedTuple):
    """The file of one attempt of one worker."""

    worker: str
    attempt: int
    path: Path


def parts_in(directory: Path) -> List[Part]:
    """The parts of a journal by worker and attempt."""
    matches = ((_PART.fullmatch(path.name), path) for path in directory.iterdir())
    return sorted(Part(match[1], int(match[2]), path) for match, path in matches if match is not None)


def finished_lines(directory: Path) -> Optional[int]:
    """The number of lines of a job that has all its results; None for others."""
    path = directory / FINISHED_FILE
    if kind_of(path) is None:
        return None
    try:
        lines = read_json(path).get("lines")
    except FairseqElError as error:
        logger.warning("%s", error)
        return None
    return lines if isinstance(lines, int) else None


def listed(names: Sequence[str]) -> str:
    """The first of many names, for a message."""
    more = f" and {len(names) - _MOST_SHOWN:,} more" if len(names) > _MOST_SHOWN else ""
    return ", ".join(names[:_MOST_SHOWN]) + more


def as_ranges(numbers: Iterable[int]) -> Tuple[int, str]:
    """Counts numbers of lines, which rise, and names them for a message: the first line of a file is 1."""
    ranges: List[List[int]] = []
    count, last = 0, -2
    for number in numbers:
        count += 1
        if number != last + 1 and len(ranges) <= _MOST_SHOWN:
            ranges.append([number + 1, number + 1])
        elif number == last + 1 and len(ranges) <= _MOST_SHOWN:
            ranges[-1][1] = number + 1
        last = number
    shown = [str(first) if first == last else f"{first} to {last}" for first, last in ranges[:_MOST_SHOWN]]
    return count, ", ".join([*shown, "..."] if len(ranges) > _MOST_SHOWN else shown)
