"""Small recipes for text that is split into tokens already."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

SMALL = {
    "task": "translation",
    "checkpoint": "model.pt",
    "dictionary": "dict.txt",
    "bpe": {"name": "split"},
    "max_source": 10,
    "decoding": {"beam": 1, "max_len_b": 5},
}
HERE = {"where": "Here."}  # of a file that is in the working directory


def write_recipe(path: Path, **changes: Any) -> Path:
    """Writes a recipe; ``changes`` must have ``files`` and ``text``."""
    path.write_text(yaml.safe_dump({**SMALL, **changes}))
    return path
