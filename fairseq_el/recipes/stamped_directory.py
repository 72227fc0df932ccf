"""Directories that the steps of a recipe make, each stamped with what it was made from."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any, Callable, Dict, Iterable

from fairseq_el.errors import FairseqElError
from fairseq_el.files import (
    MANIFEST,
    inputs_of,
    is_unused_or_own,
    refuse_if_being_made,
    refuse_unless_own,
    sha256_of,
    write_whole_directory,
)

DIRECTORIES = {"preprocess": "data", "generate": "generated", "score": "scores"}  # by the step that makes them


class StampedDirectory:
    """A directory that is made once, and again when its inputs have changed.

    Attributes:
        path: of the directory; it exists only when it is whole.
        step: the step that makes it.
        inputs: settings, and checksums of files; values that ``json`` can write. They are its stamp.
    """

    def __init__(self, workdir: Path, step: str, inputs: Dict[str, Any]):
        self.path, self.step, self.inputs = workdir / DIRECTORIES[step], step, inputs

    def is_up_to_date(self) -> bool:
        """Says whether the directory is there, and was made from these inputs."""
        return inputs_of(self.path, _command(self.step)) == json.loads(json.dumps(self.inputs))

    def refuse_to_replace(self) -> None:
        """Refuses, before anything is computed, to make a directory over something that must stay.

        The directories of later steps are looked at too: they will be replaced next.

        Raises:
            FairseqElError: another process is making it, or there are files that these steps did not write.
        """
        refuse_if_being_made(self.path)
        steps = list(DIRECTORIES)
        problems = []
        for step in steps[steps.index(self.step) :]:
            try:
                refuse_unless_own(self.path.with_name(DIRECTORIES[step]), _command(step))
            except FairseqElError as error:
                problems.append(str(error))
        if problems:
            raise FairseqElError("\n".join(problems))

    def make(self, write: Callable[[Path], object]) -> None:
        """Has the directory filled under another name, stamps it, and renames it.

        Raises:
            FairseqElError: another process is making it, or it may not be replaced.
        """

        def write_if_needed(unfinished: Path) -> None:
            if self.is_up_to_date():
                raise _MadeMeanwhileError
            write(unfinished)

        with contextlib.suppress(_MadeMeanwhileError):  # by a process that has ended just now
            write_whole_directory(self.path, write_if_needed, _command(self.step), self.inputs, replace=True)

    def require_up_to_date(self, step: str) -> None:
        """Refuses a later step if this directory is not what the recipe asks for now.

        Raises:
            FairseqElError: the directory is not there, or was made from other inputs.
        """
        if not self.is_up_to_date():
            what = "made from other files or settings than there are now" if self.path.exists() else "not there"
            raise FairseqElError(
                f"{step} needs what {self.step} makes, and {self.path} is {what}. Run first: fairseq-el recipe "
                f"{self.step}"
            )


class _MadeMeanwhileError(Exception):
    pass


def _command(step: str) -> str:
    return f"fairseq-el recipe {step}"


def refuse_others_directories(workdir: Path) -> None:
    """Refuses a working directory in which steps would replace what they have not made.

    Raises:
        FairseqElError: directories have the names of those of steps, and no step has made them; all are named.
    """
    made = {step: workdir / name for step, name in DIRECTORIES.items()}
    others = [directory for step, directory in made.items() if not is_unused_or_own(directory, _command(step))]
    if others:
        listed = ", ".join(map(str, others))
        raise FairseqElError(
            f"fairseq-el recipe makes {', '.join(DIRECTORIES.values())} in --work, and replaces only what it has made; "
            f"it has no record ({MANIFEST}) that it made {listed}. Choose another --work, or move away what is there"
        )


def checksums(workdir: Path, names: Iterable[str]) -> Dict[str, str]:
    """The SHA-256 of each file."""
    return {name: sha256_of(workdir / name) for name in dict.fromkeys(names)}


def require_files(workdir: Path, names: Iterable[str], step: str) -> None:
    """Refuses a step whose files are not there.

    Raises:
        FairseqElError: some files are missing; all are named.
    """
    missing = [name for name in dict.fromkeys(names) if not (workdir / name).is_file()]
    if missing:
        raise FairseqElError(
            f"{step} needs {len(missing)} files that are not in {workdir}: {', '.join(missing)}. Run first: "
            "fairseq-el recipe download, which says where they come from"
        )
