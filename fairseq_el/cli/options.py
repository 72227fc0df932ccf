"""Types of option values: numbers within limits, and sizes. argparse refuses other values in one line."""

from __future__ import annotations

import argparse
import math
import re
from typing import Callable

from fairseq_el.errors import shortened
from fairseq_el.units import parse_size

MOST = 2**31 - 1  # the largest number that fairseq and torch count to


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
    """A part of a whole: above 0, at most 1."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"must be above 0 and at most 1; got {text!r}")
    return value
