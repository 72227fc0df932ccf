"""Files and directories that are either whole or not there."""

from __future__ import annotations

import contextlib
import shutil
import uuid
from pathlib import Path
from typing import Callable

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
    """Has a directory filled under another name and renames it. What killed runs have left is removed first.

    Args:
        path: of the directory; whatever has that name is replaced. Its parent must be there.
        write: fills the empty directory that it is given.
    """
    name = f".{path.name}.unfinished-"
    for left in path.parent.glob(f"{name}*"):
        # A program that a killed run has started may still write there: no name is used twice, and this may fail.
        shutil.rmtree(left, ignore_errors=True)
    unfinished = path.with_name(name + uuid.uuid4().hex)
    unfinished.mkdir()
    try:
        write(unfinished)
        if path.exists():
            replaced = path.with_name(name + uuid.uuid4().hex)
            path.rename(replaced)
            unfinished.rename(path)
            shutil.rmtree(replaced, ignore_errors=True)
        else:
            unfinished.rename(path)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
