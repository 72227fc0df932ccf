"""Files that survive a crash of the machine: nothing goes on before the disk has them."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from fairseq_el.files import write_whole


def sync(descriptor: int) -> None:
    """Waits until the disk has what was written to an open file."""
    getattr(os, "fdatasync", os.fsync)(descriptor)


def sync_directory(directory: Path) -> None:
    """Waits until the disk has the names in a directory, where the system can do that."""
    with contextlib.suppress(OSError):
        descriptor = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def write_whole_to_disk(path: Path, text: str, replace: bool = False) -> None:
    """Writes a file as :func:`~fairseq_el.files.write_whole` does, and waits until the disk has it.

    Raises:
        FairseqElError: something is there that may not be replaced.
    """
    write_whole(path, lambda unfinished: _write(unfinished, text), replace)
    sync_directory(path.parent)


def _write(path: Path, text: str) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        sync(file.fileno())
