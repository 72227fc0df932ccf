"""Values of options, checked before anything is computed: numbers, sizes, the device, and files to write.

argparse refuses what a type refuses, in one line. The device and the files are checked when a command runs.
"""

from __future__ import annotations

import argparse
import math
import os
import re
from pathlib import Path
from typing import Callable, Optional, Sequence

from fairseq_el.errors import FairseqElError, OptionError, shortened
from fairseq_el.files import DIRECTORY, FILE, Paths, followed, kind_of, refuse_to_overwrite
from fairseq_el.units import parse_size

MOST = 2**31 - 1  # the largest number that fairseq and torch count to
_PICTURES = (".png", ".pdf", ".svg")


def whole(least: int, most: int = MOST) -> Callable[[str], int]:
    """The type of a whole number from ``least`` to ``most``."""

    def parse(text: str) -> int:
        digits = text.lstrip("0") or "0"
        # int() takes long for thousands of digits.
        value = int(digits) if re.fullmatch(r"[0-9]+", text) and len(digits) <= len(str(most)) else None
        if value is None or not least <= value <= most:
            too_large = text.isdecimal() and len(digits) >= len(str(most))
            end = "on" if most == MOST and not too_large else f"to {most:,}"
            raise argparse.ArgumentTypeError(f"must be a whole number from {least} {end}; got {shortened(text)!r}")
        return value

    return parse


positive = whole(1)
not_negative = whole(0)
threads = whole(1, 1024)  # for more, OpenMP ends the process
layers = whole(1, 1000)


def finite(text: str) -> float:
    """A number, neither infinite nor NaN."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"must be a number; got {shortened(text)!r}")
    return value


def size(text: str) -> int:
    """A number of bytes, such as ``16GiB``."""
    try:
        return parse_size(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def size_of_memory(text: str) -> int:
    """The bytes of a machine's memory: more than 0."""
    found = size(text)
    if found == 0:
        raise argparse.ArgumentTypeError(f"must be above 0, as 16GiB; got {text!r}")
    return found


def share(text: str) -> float:
    """A share: above 0, at most 1."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"must be above 0 and at most 1; got {text!r}")
    return value


def device_of(asked: Optional[str]) -> str:
    """The device to compute on: that of ``--device``, or a card if there is one.

    Raises:
        OptionError: there is no card.
        NoKernelsError: this torch was not built for the card.
    """
    # Here, because importing torch takes a second, and fairseq-el score does without.
    import torch

    from fairseq_el.cards.check import check_device, usable_device, why_no_card

    if asked == "cuda" and not torch.cuda.is_available():
        why = why_no_card()
        raise OptionError(
            "--device cuda needs a card that this torch can use, and there is none; use --device cpu"
            + (why and f". {why}")
        )
    if asked == "cuda":
        check_device(torch.device(asked))
    return asked or usable_device()


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
        OptionError: it can't be made, a file in it would be overwritten, or ``--plot`` names a file in it.
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
