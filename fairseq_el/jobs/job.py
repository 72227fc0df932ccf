"""A job: the lines that are left to decode, and the place where their results go.

A job is opened before any model is read, so that all that is wrong is refused at once. Then::

    with open_job(run, Path("out.txt"), Path("out.txt.journal"), resume=True) as job:
        for result in decode((number, line) for number, line in enumerate(lines) if job.wants(number, line)):
            job.write(result)
        job.finish()
"""

from __future__ import annotations

import contextlib
import re
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Dict, Optional, Type, Union

from fairseq_el.errors import FairseqElError, OptionError
from fairseq_el.files import Paths, followed, need_directory, refuse_to_overwrite, staging_directory
from fairseq_el.jobs.input import digest_of_line
from fairseq_el.jobs.journal import Journal, finished_lines
from fairseq_el.jobs.journal_directory import discard_journal, open_journal
from fairseq_el.jobs.merge import refuse_missing
from fairseq_el.jobs.ordered_output import HELD_BACK, OrderedOutput
from fairseq_el.jobs.output_file import OutputFile
from fairseq_el.jobs.result import Result
from fairseq_el.jobs.run_file import Run
from fairseq_el.jobs.shards import Share
from fairseq_el.jobs.status import FINISHED, STOPPED, StatusFile

_WORKER = re.compile(r"\w{1,64}", re.ASCII)


def open_job(
    run: Run,
    output: Union[Path, BinaryIO],
    journal: Optional[Path] = None,
    *,
    resume: bool = False,
    force: bool = False,
    share: Optional[Share] = None,
    worker: Optional[str] = None,
    inputs: Paths = (),
    held_back: int = HELD_BACK,
) -> Job:
    """Opens a new job, or one that was stopped or killed.

    Args:
        run: all that must be the same when it is resumed.
        output: a file, or a stream of bytes such as ``sys.stdout.buffer``.
        journal: its directory; None for a job that can't be resumed, and leaves nothing behind.
        resume: whether to go on if there is a journal. One of several shares always does.
        force: whether ``output`` may replace a file, and the job a journal that is finished.
        share: the lines that this process decodes, by default all. The output of several shares is left to
            :func:`~fairseq_el.jobs.merge.merge`.
        worker: the name of this process in the journal, by default the index of its share.
        inputs: files and directories that are read, so that ``output`` can't be one of them.
        held_back: bytes of output that may wait in memory; the journal has the rest.

    Raises:
        OptionError: the job can't be begun or resumed as it is asked for. Nothing was changed.
    """
    share = share or Share()
    is_one_of_many = share.of > 1
    if is_one_of_many and (journal is None or run.input.is_pipe or not isinstance(output, Path)):
        raise OptionError(
            "--shard needs files: --input FILE, which all shards read, and --output FILE, whose journal they write to"
        )
    if worker is not None and not _WORKER.fullmatch(worker):
        raise ValueError(f"a worker's name must be of letters, digits and underscores; got {worker!r}")
    opened = prepare_job(
        run,
        output,
        journal,
        resume=resume or is_one_of_many,
        force=force,
        may_discard=force and not is_one_of_many,
        worker=str(share.index) if worker is None else worker,
        inputs=inputs,
    )
    return Job(run, opened, output, share, force, held_back)


def prepare_job(
    run: Run,
    output: Union[Path, BinaryIO],
    journal: Optional[Path],
    *,
    resume: bool,
    force: bool,
    may_discard: bool,
    worker: str,
    inputs: Paths = (),
) -> Optional[Journal]:
    """Checks all that :func:`open_job` checks, and opens or makes the journal; None without one.

    Args:
        may_discard: whether the journal of a finished job may be removed.
        worker: the name of this process in the journal.

    Raises:
        OptionError: the job can't be begun or resumed as it is asked for. Nothing was changed.
    """
    if isinstance(output, Path):
        is_finished = journal is not None and finished_lines(journal) is not None
        may_be_there = force or (is_finished and resume)  # it is compared at the end
        refuse_to_overwrite(output, "--output", may_be_there, inputs)
        need_directory(output, "--output")
    if journal is None:
        return None
    named = output if isinstance(output, Path) else None
    return open_journal(journal, run, named, resume=resume, may_discard=may_discard, worker=worker)


class Job:
    """An open job; :func:`open_job` makes it.

    Attributes:
        journal: None for a job that can't be resumed.
        share: the lines that this process decodes.
    """

    def __init__(
        self,
        run: Run,
        journal: Optional[Journal],
        output: Union[Path, BinaryIO],
        share: Share,
        replace: bool,
        held_back: int,
    ):
        self.journal, self.share = journal, share
        self._run, self._output, self._replace, self._limit = run, output, replace, held_back
        self._line_digests: Dict[int, str] = {}
        self._own_problems: Dict[int, str] = {}
        self._status = None if journal is None else StatusFile(journal.directory, journal.worker)
        self._unfinished: Optional[OutputFile] = None
        self._ordered: Optional[OrderedOutput] = None
        self._exit = contextlib.ExitStack()
        with self._exit:
            if journal is not None:
                self._exit.callback(journal.close)
            if share.of == 1:
                self._begin_output()
            self._exit = self._exit.pop_all()

    def __enter__(self) -> Job:
        return self

    def __exit__(
        self,
        kind: Optional[Type[BaseException]],
        error: Optional[BaseException],
        traceback: Optional[TracebackType],
    ) -> None:
        self.close()

    @property
    def num_done(self) -> int:
        """Lines that have a result, by this process or another one before it was opened."""
        if self.journal is not None:
            return len(self.journal)
        return 0 if self._ordered is None else self._ordered.next + self._ordered.num_in_memory

    @property
    def problems(self) -> Dict[int, str]:
        """Why lines have failed, by their numbers from 0: all that is known, which is all of a finished job."""
        return self._own_problems if self._ordered is None else self._ordered.problems

    def num_left(self, num_lines: int) -> int:
        """Lines of the share that have no result, in an input of so many."""
        numbers = self.share.numbers(num_lines)
        return len(numbers) if self.journal is None else sum(1 for _ in self.journal.missing(numbers))

    @property
    def held_back(self) -> int:
        """Results that wait for an earlier line."""
        return 0 if self._ordered is None else self.num_done - self._ordered.next

    def wants(self, number: int, line: str) -> bool:
        """Says whether a line is to be decoded: it is in the share, and has no result yet.

        Args:
            number: of the line, from 0.
            line: without its end.

        Raises:
            FairseqElError: the input is a pipe, and the journal has a result of another line with this number.
        """
        if number not in self.share:
            return False
        if self.journal is not None and number in self.journal:
            if self._run.input.is_pipe:
                self._refuse_other_line(self.journal, number, line)
            return False
        if self.journal is not None and self._run.input.is_pipe:
            self._line_digests[number] = digest_of_line(line)
        if self._status is not None:
            self._status.begin()
        return True

    def write(self, *results: Result) -> None:
        """Takes results, in any order: best those of a batch together, which the journal writes at once.

        When it returns, a kill of this process does not lose them. Lines that can be written are.

        Raises:
            OSError: they can't be written.
        """
        self._own_problems.update({result.number: result.problem for result in results if result.problem})
        if self.journal is not None:
            results = tuple(self.journal.append(results, [self._line_digests.pop(r.number, "") for r in results]))
        if self._ordered is not None:
            self._ordered.put(results)
        if self._status is not None:
            self._status.count(results, self.held_back)

    def finish(self, num_lines: Optional[int] = None) -> None:
        """Gives the output its name, after all lines of the share have a result.

        Args:
            num_lines: of the input; needed for a pipe only.

        Raises:
            FairseqElError: results are missing, the input of a resumed job has become shorter, or another file has
                the output's name.
        """
        total = num_lines if self._run.input.lines is None else self._run.input.lines
        if total is None:
            raise ValueError("a job that reads a pipe must be told the number of lines")
        self._refuse_incomplete(total)
        if self._ordered is not None:
            if self.journal is not None:
                self.journal.note_end(total)
            self._publish()
        if self._status is not None:
            self._status.write(FINISHED)
        self.close()

    def close(self) -> None:
        """Closes all files. Once more does nothing.

        Unless the job is finished, its journal stays, to be resumed. A new journal without any result is removed.
        """
        status, self._status = self._status, None
        is_stopped = status is not None and status.status.state != FINISHED
        is_useless = is_stopped and self.share.of == 1 and self.journal is not None and self.journal.is_unused
        if status is not None and is_stopped and not is_useless:
            status.write(STOPPED)
        self._exit.close()
        if is_useless and self.journal is not None:
            discard_journal(self.journal.directory)

    def _begin_output(self) -> None:
        """Opens the output, and writes the lines that the journal can give."""
        if isinstance(self._output, Path):
            self._unfinished = OutputFile(self._unfinished_directory(self._output), self._output, self._replace)
            self._exit.callback(self._unfinished.close)
            write = self._unfinished.write
        else:
            write = self._write_to_stream
        read_back = None if self.journal is None else self.journal.result
        self._ordered = OrderedOutput(write, self._run.format, read_back, self._limit)
        self._ordered.advance()

    def _unfinished_directory(self, output: Path) -> Path:
        if self.journal is not None:
            return self.journal.directory
        return self._exit.enter_context(staging_directory(followed(output)))

    def _write_to_stream(self, content: bytes) -> None:
        assert not isinstance(self._output, Path)
        try:
            self._output.write(content)
            self._output.flush()
        except OSError as error:
            error.filename = error.filename or "standard output"
            raise

    def _publish(self) -> None:
        if self._unfinished is None:
            return
        try:
            self._unfinished.publish()
        except FileNotFoundError:
            if self.journal is None:
                raise
            # Another process that does the same job has removed the file as one of a dead process.
            self._begin_output()
            self._unfinished.publish()

    def _refuse_incomplete(self, total: int) -> None:
        journal = self.journal
        if journal is not None:
            if journal.end > total:
                raise FairseqElError(
                    f"{self._run.input.name} must have the same lines again: {journal.directory} has a result of line "
                    f"{journal.end}, and the input has ended after {total}. Give all of it, or remove "
                    f"{journal.directory} to start over"
                )
            refuse_missing(journal, self.share.numbers(total))
        elif self.num_done != total or self.held_back:
            raise FairseqElError(f"there must be a result for each of {total} lines; there are {self.num_done}")

    def _refuse_other_line(self, journal: Journal, number: int, line: str) -> None:
        if journal.line_digest(number) != digest_of_line(line):
            raise FairseqElError(
                f"line {number + 1} of {self._run.input.name} must be what it was when {journal.directory} was "
                f"written, and is another one. Give the same input again, or remove {journal.directory} to start over"
            )
