"""Command lines of earlier versions: they still work, with one line of notice."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import List


def in_new_spelling(given: List[str]) -> List[str]:
    """The words after ``fairseq-el``, as they are spelled today.

    ``bench slim`` and ``bench topk`` are commands of two words where there is no data directory of that name.
    """
    if given[:2] in (["bench", "slim"], ["bench", "topk"]) and not Path(given[1]).is_dir():
        return [" ".join(given[:2]), *given[2:]]
    return given


def note_new_spelling(old: str, new: str) -> None:
    """Tells on standard error how a command is called now, such as ``calibrate`` instead of ``bench --calibrate``."""
    sys.stderr.write(f"fairseq-el: note: {old} is now {new}\n")
