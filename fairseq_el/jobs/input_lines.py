"""Lines of a text in UTF-8, with their numbers, read one after the other."""

from __future__ import annotations

from typing import BinaryIO, Iterator, Tuple

from fairseq_el.errors import FairseqElError
from fairseq_el.files import other_encoding, without_mark

LOOKED_AT = 4096  # bytes of the first line, to recognise another encoding


def numbered_lines(stream: BinaryIO, name: str) -> Iterator[Tuple[int, str]]:
    r"""Numbers, from 0, and texts of lines, without their ends.

    Only ``\n`` ends a line. What else Python takes for the end of one is text, ``\r`` too. A last line without ``\n``
    counts. A byte-order mark at the start is left out.

    Args:
        name: where the lines come from, for messages.

    Raises:
        FairseqElError: a line is not in UTF-8; with its number, from 1.
    """
    for number, content in enumerate(stream):  # binary files end lines at b"\n" alone
        if number == 0:
            _refuse_other_encoding(content[:LOOKED_AT], name)
        try:
            line = content.decode("utf-8")
        except UnicodeDecodeError as error:
            raise FairseqElError(
                f"the input must be text in UTF-8; line {number + 1:,} of {name} has byte {error.start + 1} "
                f"({content[error.start]:#04x}), which is not: {error.reason}. Convert it with iconv, or make it again"
            ) from error
        line = line[:-1] if line.endswith("\n") else line
        yield number, without_mark(line) if number == 0 else line


def _refuse_other_encoding(start: bytes, name: str) -> None:
    other = other_encoding(start)
    if other is not None:
        raise FairseqElError(
            f"the input must be text in UTF-8; {name} is in {other}. Convert it: iconv -f {other} -t UTF-8"
        )
