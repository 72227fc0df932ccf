"""The output of a job, written from its journal when all results are there."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import BinaryIO, Callable, Dict, Optional, Union

from fairseq_el.errors import FairseqElError
from fairseq_el.files import followed, staging_directory
from fairseq_el.jobs.disk import sync
from fairseq_el.jobs.failed_lines import refuse_too_many
from fairseq_el.jobs.journal import Journal, as_ranges
from fairseq_el.jobs.ordered_output import OrderedOutput
from fairseq_el.jobs.output_file import publish


class MissingResultsError(FairseqElError):
    """Lines of a job have no result yet."""


def merge(
    directory: Path,
    output: Union[Path, BinaryIO],
    format_name: Optional[str] = None,
    replace: bool = False,
    max_failures: Optional[int] = None,
) -> Dict[int, str]:
    """Writes the output of the job with this journal.

    Args:
        output: a file, or a stream of bytes.
        format_name: one of ``FORMATS``; by default, the format that the job was given.
        replace: whether a file that is there may be replaced. A file that is this output already stays.
        max_failures: more lines may not have failed (default: any number).

    Returns:
        why lines have failed, by their numbers from 0.

    Raises:
        MissingResultsError: results are missing. Nothing was written.
        FairseqElError: the directory has no journal, too many lines have failed, or the file may not be replaced.
    """
    with contextlib.closing(Journal(directory)) as journal:
        if not isinstance(output, Path):
            return write_in_order(journal, output.write, format_name)
        path = followed(output)
        with staging_directory(path) as staging:
            unfinished = staging / path.name
            with unfinished.open("wb") as file:
                problems = write_in_order(journal, file.write, format_name)
                file.flush()
                sync(file.fileno())
            if max_failures is not None:
                refuse_too_many(problems, max_failures)
            publish(unfinished, path, replace)
            return problems


def write_in_order(
    journal: Journal, write: Callable[[bytes], object], format_name: Optional[str] = None
) -> Dict[int, str]:
    """Writes all results of a journal in the order of the input.

    Returns:
        why lines have failed, by their numbers from 0.

    Raises:
        MissingResultsError: results are missing. It names their lines.
        FairseqElError: the job reads a pipe that has not ended.
    """
    num_lines = journal.num_lines
    if num_lines is None:
        raise FairseqElError(
            f"the job of {journal.directory} reads a pipe that has not ended, so the number of its lines is not known. "
            "Run its command again with --resume"
        )
    refuse_missing(journal, range(num_lines))
    journal.note_end(num_lines)
    output = OrderedOutput(write, format_name or journal.run.format, journal.result)
    output.advance()
    return output.problems


def refuse_missing(journal: Journal, numbers: range) -> None:
    """Refuses a journal without results for some lines.

    Raises:
        MissingResultsError: results are missing. It names their lines, and calls the first one line 1.
    """
    count, named = as_ranges(journal.missing(numbers))
    if count:
        raise MissingResultsError(
            f"{journal.directory} must have results for {len(numbers):,} lines, and {count:,} are missing: {named}. "
            "Run the shards that have not finished again, or the whole command with --resume"
        )
