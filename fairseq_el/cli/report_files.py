"""Checks of the files and directories that commands write reports and pictures to, before anything is computed."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Optional, Sequence

from fairseq_el.errors import FairseqElError, OptionError
from fairseq_el.files import DIRECTORY, FILE, Paths, followed, kind_of, refuse_to_overwrite

_PICTURES = (".png", ".pdf", ".svg")


def check_plot(path: Path, force: bool, inputs: Paths = (), option: str = "--plot") -> None:
    """Checks the file of a picture.

    Args:
        inputs: the files that the command reads.

    Raises:
        OptionError: the file can't be written, or something would be overwritten.
        FairseqElError: matplotlib is missing.
    """
    _need_matplotlib(option)
    if path.suffix not in _PICTURES:
        raise OptionError(f"{option} must name a .png, .pdf or .svg file; got {path}")
    check_file(path, force, option, inputs)


def check_file(path: Path, force: bool, option: str, inputs: Paths = ()) -> None:
    """Checks the file that an option names.

    Args:
        inputs: the files that the command reads.

    Raises:
        OptionError: the file can't be written, or something would be overwritten.
    """
    refuse_to_overwrite(path, option, force, inputs)
    _need_directory_or_room(path.absolute().parent, f"{option} {path}")


def check_directory(
    directory: Path, names: Sequence[str], force: bool, inputs: Paths = (), plot: Optional[Path] = None
) -> None:
    """Checks the directory of ``--out``.

    Args:
        names: the files that will be written in it.
        inputs: the files that the command reads.
        plot: the file of ``--plot``.

    Raises:
        OptionError: it can't be a directory, or a file in it would be overwritten or is that of ``--plot``.
        FairseqElError: one of the files is a picture, and matplotlib is missing.
    """
    if any(name.endswith(_PICTURES) for name in names):
        _need_matplotlib("--out")
    kind = kind_of(directory)
    if kind not in (DIRECTORY, None):
        raise OptionError(f"--out must be a directory; {directory} is {kind}")
    existing = [name for name in names if kind_of(directory / name) == FILE]
    if existing and not force:
        raise OptionError(f"--out {directory} has {', '.join(existing)} already; choose another one, or add --force")
    for name in names:
        refuse_to_overwrite(directory / name, "--out", force, inputs)
        if plot is not None and followed(plot) == followed(directory / name):
            raise OptionError(f"--plot must not be one of the files of --out; both are {plot}")
    _need_directory_or_room(directory.absolute(), f"--out {directory}")


def _need_matplotlib(option: str) -> None:
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise FairseqElError(f"{option} needs matplotlib ({error}): pip install fairseq_el[plot]") from error


def _need_directory_or_room(directory: Path, option: str) -> None:
    there = next(above for above in (directory, *directory.parents) if kind_of(above) is not None)
    if kind_of(there) != DIRECTORY:
        reason = f"{there} is {kind_of(there)}"
    elif not os.access(there, os.W_OK | os.X_OK):
        reason = f"{there} can't be written to"
    else:
        return
    raise OptionError(f"{option} must be in a directory that exists or can be made; {reason}")
