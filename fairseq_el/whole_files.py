"""Files that are either whole or not there."""

from __future__ import annotations

import contextlib
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
