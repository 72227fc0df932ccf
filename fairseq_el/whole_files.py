"""Files and directories that are either whole or not there."""

from __future__ import annotations

import contextlib
import glob
import shutil
import uuid
from pathlib import Path
from typing import Callable, Sequence

from fairseq_el.errors import OptionError


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Has a file written under another name and renames it, so that an unfinished one never has the name ``path``.

    Args:
        path: of the file; whatever has that name is replaced.
        write: writes the file to the path it is given, which ends like ``path``.
    """
    unfinished = path.with_name(f".{path.stem}.unfinished{path.suffix}")
    try:
        write(unfinished)
        unfinished.replace(path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            unfinished.unlink()


def refuse_to_overwrite(path: Path, option: str, force: bool) -> None:
    """Before any work is done.

    Raises:
        OptionError: there is something of that name, and ``force`` is not given, or it is a directory.
    """
    if path.is_dir():
        raise OptionError(f"{option} must name a file; {path} is a directory")
    if path.exists() and not force:
        raise OptionError(f"{option} {path} exists already; choose another name, or add --force")


def write_whole_directory(path: Path, write: Callable[[Path], object]) -> None:
    """The same for a directory of files; one of that name is replaced when the new one is whole.

    What a process that was killed has left behind is removed, or put back if it is the old directory.

    Args:
        write: fills the empty directory it is given, which lies beside ``path``.
    """
    path = path.resolve()  # which has a name, and a directory above it, whatever it is called by
    replaced = path.with_name(f".{path.name}.replaced")
    _clean_up(path, replaced)
    # A program that a killed process has started may still write into what it was given: no name is used twice.
    unfinished = path.with_name(f".{path.name}.unfinished-{uuid.uuid4().hex}")
    unfinished.mkdir(parents=True)
    try:
        write(unfinished)
        if path.exists():
            path.rename(replaced)
        unfinished.rename(path)
    finally:
        _clean_up(path, replaced)


def _clean_up(path: Path, replaced: Path) -> None:
    if replaced.exists() and not path.exists():
        replaced.rename(path)
    unfinished = path.parent.glob(f".{glob.escape(path.name)}.unfinished-*")
    for leftover in (replaced, *unfinished):
        shutil.rmtree(leftover, ignore_errors=True)


def refuse_to_overwrite_directory(path: Path, option: str, force: bool, own: Sequence[str]) -> None:
    """Before any work is done.

    Args:
        own: files that a directory must have for ``force`` to replace it as a whole.

    Raises:
        OptionError: there is something of that name that is not empty, and ``force`` is not given, or it is not
            ``own``.
    """
    if not path.exists() or (path.is_dir() and not any(path.iterdir())):
        return
    if not force:
        raise OptionError(f"{option} {path} exists already; choose another name, or add --force")
    if not path.is_dir() or not all((path / name).is_file() for name in own):
        raise OptionError(
            f"{option} {path} exists already, and --force replaces only what convert has written; choose another name"
        )
