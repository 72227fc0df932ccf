"""The directory of a journal: made, joined, refused, or removed when a new job takes its place."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import List, Optional

from fairseq_el.errors import FairseqElError, OptionError
from fairseq_el.files import DIRECTORY, followed, kind_of
from fairseq_el.jobs.journal import Journal, finished_lines
from fairseq_el.jobs.run_file import RUN_FILE, Run, differences, note_versions, read_run, write_run

# All files that jobs make in a journal; the unfinished ones are directories.
_OWN = re.compile(r"run\.json|finished\.json|part-.+\.jsonl|status-.+\.json|output-\d+\.partial|\..+\.unfinished-.+")


def open_journal(
    directory: Path, run: Run, output: Optional[Path], resume: bool, may_discard: bool, worker: str
) -> Journal:
    """Opens the journal of a job, or makes it if there is none.

    Args:
        output: the file that the results are for, if there is one.
        resume: whether a journal of the same job may be there.
        may_discard: whether, without ``resume``, the journal of a finished job may be removed.

    Raises:
        OptionError: what is there does not fit.
    """
    directory = followed(directory)
    _refuse_others(directory)
    if may_discard and not resume and kind_of(directory) == DIRECTORY and finished_lines(directory) is not None:
        discard_journal(directory)
    if kind_of(directory / RUN_FILE) is None:
        directory.mkdir(exist_ok=True)
        try:
            write_run(directory, run, output)
            journal = Journal(directory, worker)
            journal.is_new = True
            return journal
        except FairseqElError:
            if not resume or kind_of(directory / RUN_FILE) is None:
                raise  # or else another share was faster
    if not resume:
        state = "has not finished" if finished_lines(directory) is None else "has finished"
        raise OptionError(
            f"{directory} is the journal of a job that {state}: go on with it by --resume, or remove it to start over"
        )
    _refuse_another_job(directory, run)
    return Journal(directory, worker)


def discard_journal(directory: Path) -> None:
    """Removes a journal.

    Raises:
        FairseqElError: it has files that no job has made. Nothing was removed.
    """
    others = _files_of_others(directory)
    if others:
        raise FairseqElError(f"{directory} has files that no job has made, such as {others[0]}. Nothing was removed")
    for path in sorted(directory.iterdir(), key=lambda path: path.name == RUN_FILE):  # last, so that it is known
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
    directory.rmdir()


def _files_of_others(directory: Path) -> List[str]:
    return sorted(path.name for path in directory.iterdir() if not _OWN.fullmatch(path.name))


def _refuse_others(directory: Path) -> None:
    kind = kind_of(directory)
    if kind not in (DIRECTORY, None):
        raise OptionError(f"the journal must be a directory; {directory} is {kind}. Choose another name")
    others = _files_of_others(directory) if kind == DIRECTORY and kind_of(directory / RUN_FILE) is None else []
    if others:
        raise OptionError(
            f"the journal must be a new directory, or have a {RUN_FILE}; {directory} has files that no job has made, "
            f"such as {others[0]}. Choose another name"
        )


def _refuse_another_job(directory: Path, run: Run) -> None:
    before, _ = read_run(directory)
    changed = differences(before, run)
    if changed:
        raise OptionError(
            f"a job is resumed with all that can change its results as it was; {directory} has another one:"
            + "".join(f"\n  - {each}" for each in changed)
            + f"\nGive the same again, or remove {directory} to start over"
        )
    note_versions(before, run)
