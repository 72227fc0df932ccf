"""Paths that a command is told to write to: refused before anything is computed."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Iterable, Union

from fairseq_el.errors import FairseqElError, OptionError
from fairseq_el.files.manifest import refuse_unless_own
from fairseq_el.files.reading import DIRECTORY, FILE, kind_of
from fairseq_el.files.staging import followed, refuse_if_being_made

Paths = Iterable[Union[str, Path, None]]


def refuse_to_overwrite(path: Path, option: str, force: bool, inputs: Paths = ()) -> None:
    """Refuses to write a file over something that must stay.

    Args:
        option: the option that names the file.
        force: whether ``--force`` was given.
        inputs: files and directories that the command reads.

    Raises:
        OptionError: something is there that must not be replaced.
    """
    kind = kind_of(path)
    if kind is None:
        return
    if kind != FILE:
        raise OptionError(f"{option} must name a file; {path} is {kind}")
    same = [given for given in inputs if given is not None and _is_same(Path(given), path)]
    if same:
        raise OptionError(f"{option} must not be what is read: {path} is {same[0]}; choose another name")
    if not force:
        raise OptionError(f"{option} {path} exists already; choose another name, or add --force")
    if not os.stat(path).st_mode & 0o222:
        raise OptionError(f"{option} {path} is read-only, and --force replaces no such file; choose another name")


def need_directory(path: Path, option: str) -> None:
    """Refuses a file in a directory that does not exist.

    Raises:
        OptionError: the file's directory does not exist.
    """
    directory = followed(path).parent
    if not directory.is_dir():
        raise OptionError(f"{option} {path} must be in a directory that exists; there is no directory {directory}")


def refuse_to_overwrite_directory(path: Path, option: str, force: bool, by: str, inputs: Paths = ()) -> None:
    """Refuses to write a directory over something that must stay.

    Args:
        by: the command that the directory's manifest must name.

    Raises:
        OptionError: something is there that must not be replaced.
        FairseqElError: another process is making it.
    """
    refuse_if_being_made(path)
    kind = kind_of(path)
    if kind is None:
        return
    if kind != DIRECTORY:
        raise OptionError(f"{option} must name a directory; {path} is {kind}, which is never replaced")
    if os.path.ismount(path):
        raise OptionError(f"{option} {path} is where a file system is mounted; choose a directory in it")
    inside = [given for given in inputs if given is not None and _is_inside(Path(given), path)]
    if inside:
        raise OptionError(f"{option} must not be what is converted, nor hold it: {inside[0]} is in {path}")
    if not any(path.iterdir()):
        return
    if not force:
        raise OptionError(f"{option} {path} exists already; choose another name, or add --force")
    try:
        refuse_unless_own(path, by)
    except FairseqElError as error:
        raise OptionError(
            f"{option} {path} exists already, and --force replaces only what the same command has written: {error}"
        ) from error


def _is_same(one: Path, other: Path) -> bool:
    try:
        return os.path.samefile(one, other)
    except OSError:  # one of them is not there
        return False


def _is_inside(given: Path, directory: Path) -> bool:
    target = followed(given)
    return any(_is_same(above, directory) for above in (target, *target.parents))
