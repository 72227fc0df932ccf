"""Sizes and times as people write them."""

from __future__ import annotations

import re
from decimal import Decimal

_MOST_DIGITS = 18  # of a size: below a million terabytes

_UNITS = {"": 1, "B": 1}
_UNITS.update({f"{letter}B": 1000**power for power, letter in enumerate("KMGT", start=1)})
_UNITS.update({f"{letter}IB": 1024**power for power, letter in enumerate("KMGT", start=1)})


def parse_size(text: str) -> int:
    """Bytes in ``16GiB``, ``16GB``, ``1.5 GiB`` or ``1000000``.

    Raises:
        ValueError: the text is not a size in one of these forms.
    """
    match = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([A-Za-z]*)\s*", text)
    if match is None or match.group(2).upper() not in _UNITS:
        got = text if len(text) < 50 else f"{text[:50]}..."
        raise ValueError(f"a size is a number with a unit, such as 16GiB, 16GB or 900MiB, or plain bytes; got {got!r}")
    size = int(Decimal(match.group(1)) * _UNITS[match.group(2).upper()]) if len(match.group(1)) < 100 else None
    if size is None or size >= 10**_MOST_DIGITS:
        raise ValueError(f"a size must be below 1,000,000 TB; got one of {len(match.group(1))} digits")
    return size


def format_size(size: int) -> str:
    """``1.25 GiB``, in three or four digits."""
    for unit, power in (("TiB", 4), ("GiB", 3), ("MiB", 2), ("KiB", 1)):
        if size >= 1024**power:
            value = size / 1024**power
            return f"{value:,.{2 if value < 10 else 1 if value < 100 else 0}f} {unit}"
    return f"{size} B"


def format_seconds(seconds: float) -> str:
    """``1.2 s``, ``34 ms``, ``5.6 us``: two digits, or whole seconds."""
    unit, size = next((pair for pair in (("s", 1.0), ("ms", 1e-3)) if seconds >= 0.995 * pair[1]), ("us", 1e-6))
    value = seconds / size
    return f"{value:,.{1 if value < 9.95 else 0}f} {unit}"
