"""Checks the checksums in a file of ``torch.save``, which ``torch.load`` does not read."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import List, Union

from fairseq_el.errors import FairseqElError


def has_sums(path: Union[str, Path]) -> bool:
    """Returns whether a file has checksums.

    Files of torch before 1.6 have none, and in files that were written without them all are 0.
    """
    try:
        return any(record.CRC for record in _records(path))
    except (zipfile.BadZipFile, OSError, NotImplementedError):
        return False


def _records(path: Union[str, Path]) -> List[zipfile.ZipInfo]:
    with zipfile.ZipFile(path) as archive:
        return archive.infolist()


def check_sums(path: Union[str, Path]) -> None:
    """Compares the checksums of a file, where it has them: a damaged number looks like any other when it is loaded.

    Raises:
        FairseqElError: a record does not hold what was written.
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
