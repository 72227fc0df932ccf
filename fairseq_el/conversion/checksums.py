"""The checksums of what ``torch.save`` wrote, which ``torch.load`` does not look at."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import List, Union

from fairseq_el.errors import FairseqElError


def has_sums(path: Union[str, Path]) -> bool:
    """Whether a file has checksums: those before torch 1.6 have none, nor have those written without (all are 0)."""
    try:
        return any(record.CRC for record in _records(path))
    except (zipfile.BadZipFile, OSError, NotImplementedError):
        return False


def _records(path: Union[str, Path]) -> List[zipfile.ZipInfo]:
    with zipfile.ZipFile(path) as archive:
        return archive.infolist()


def check_sums(path: Union[str, Path]) -> None:
    """Before a file is loaded: a damaged number is a number like any other.

    Raises:
        FairseqElError: what a record holds is not what was written.
    """
    if not has_sums(path):
        return
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    except Exception as error:  # zipfile, zlib and struct each raise their own
        damaged = f"of its records one that can't be read ({type(error).__name__})"
    if damaged is not None:
        raise FairseqElError(
            f"{path} is damaged: the checksum of {damaged} is not that of what it holds. Compare the file's checksum "
            "with the original's, and copy it again"
        )
