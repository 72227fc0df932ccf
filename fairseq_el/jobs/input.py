"""The lines that a job reads: their number and checksum, by which a resumed job knows them again."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Optional

from fairseq_el.files import CHUNK

_DIGITS = 16  # of a line's digest


@dataclass(frozen=True)
class Input:
    """A file, or a pipe: the number of its lines is known only when it has ended.

    Attributes:
        name: for messages.
        size: in bytes; None for a pipe.
        lines: their number; None for a pipe.
        sha256: of all bytes; None for a pipe.
    """

    name: str
    size: Optional[int] = None
    lines: Optional[int] = None
    sha256: Optional[str] = None

    @property
    def is_pipe(self) -> bool:
        return self.lines is None


def describe_file(path: Path) -> Input:
    """Describes a file; see :func:`describe`."""
    with path.open("rb") as file:
        return describe(file, str(path))


def describe(file: BinaryIO, name: str) -> Input:
    """Reads a file from its current position to its end. Only a newline ends a line, and the last line needs none."""
    digest, size, ends, last = hashlib.sha256(), 0, 0, b"\n"
    for chunk in iter(lambda: file.read(CHUNK), b""):
        digest.update(chunk)
        size += len(chunk)
        ends += chunk.count(b"\n")
        last = chunk[-1:]
    return Input(name, size, ends + (last != b"\n"), digest.hexdigest())


def digest_of_line(line: str) -> str:
    """Sixteen digits by which a line of a pipe is known again."""
    return hashlib.sha256(line.encode("utf-8", "surrogatepass")).hexdigest()[:_DIGITS]
