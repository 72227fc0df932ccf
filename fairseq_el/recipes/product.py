"""What a step leaves: a directory, with a record of what it was made from."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any, Callable, Dict

from fairseq_el.errors import FairseqElError
from fairseq_el.files.manifest import RECORD, has_record, made_from, refuse_unless_own
from fairseq_el.files.staging import clean_up, refuse
from fairseq_el.files.whole_files import followed, write_whole_directory

DIRECTORIES = {"preprocess": "data", "generate": "generated", "score": "scores"}  # by the step that makes them


class Product:
    """A directory that is made once, and again when what it is made from is not the same any more.

    Attributes:
        path: of the directory; it exists only when it is whole.
        step: that makes it.
        made_from: settings, and checksums of files; must be what ``json`` can write.
    """

    def __init__(self, work: Path, step: str, made_from: Dict[str, Any]):
        self.path, self.step, self.made_from = work / DIRECTORIES[step], step, made_from

    def is_made(self) -> bool:
        """Whether it is there, made from what there is now."""
        return made_from(self.path, _by(self.step)) == json.loads(json.dumps(self.made_from))

    def refuse_to_replace(self) -> None:
        """Before any work on it is done. The directories of later steps are looked at too: they will be replaced next.

        Raises:
            FairseqElError: another process is making it, or there are files that these steps did not write.
        """
        refuse(self.path, clean_up(followed(self.path)))
        steps = list(DIRECTORIES)
        problems = []
        for step in steps[steps.index(self.step) :]:
            try:
                refuse_unless_own(self.path.with_name(DIRECTORIES[step]), _by(step))
            except FairseqElError as error:
                problems.append(str(error))
        if problems:
            raise FairseqElError("\n".join(problems))

    def make(self, write: Callable[[Path], object]) -> None:
        """Has the directory filled under another name, records what it was made from, and gives it its name.

        Raises:
            FairseqElError: another process is making it, or it may not be replaced.
        """

        def write_if_needed(unfinished: Path) -> None:
            if self.is_made():
                raise _MadeMeanwhileError
            write(unfinished)

        with contextlib.suppress(_MadeMeanwhileError):  # by a process that has ended just now
            write_whole_directory(self.path, write_if_needed, _by(self.step), self.made_from, replace=True)

    def needed_by(self, step: str) -> None:
        """Before another step reads it.

        Raises:
            FairseqElError: it is not made, or from something else than there is now.
        """
        if not self.is_made():
            what = "made from other files or settings than there are now" if self.path.exists() else "not there"
            raise FairseqElError(
                f"{step} needs what {self.step} makes, and {self.path} is {what}. Run first: fairseq-el recipe "
                f"{self.step}"
            )


class _MadeMeanwhileError(Exception):
    pass


def _by(step: str) -> str:
    return f"fairseq-el recipe {step}"


def refuse_others_directories(work: Path) -> None:
    """Before any step.

    Raises:
        FairseqElError: directories have the names of what steps make, and no step has made them; all are named.
    """
    others = [work / name for step, name in DIRECTORIES.items() if not has_record(work / name, _by(step))]
    if others:
        listed = ", ".join(map(str, others))
        raise FairseqElError(
            f"fairseq-el recipe makes {', '.join(DIRECTORIES.values())} in --work, and replaces only what it has made; "
            f"it has no record ({RECORD}) that it made {listed}. Choose another --work, or move away what is there"
        )
