"""Text files by line, where only a newline ends a line, as in what fairseq's programs print."""

from __future__ import annotations

import codecs
import shlex
from pathlib import Path
from typing import List, NamedTuple, Optional

from fairseq_el.errors import FairseqElError
from fairseq_el.files.reading import read_content, refuse_endless

BYTE_ORDER_MARK = "\ufeff"
_UTF_16_AND_32 = (codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_LOOKED_AT = 4096  # bytes


class TextLines(NamedTuple):
    """The lines of a file without their ends, and whether the last of them has an end."""

    lines: List[str]
    is_ended: bool


def read_lines(path: Path, name: str) -> TextLines:
    """Reads a text in UTF-8.

    Python's text files and ``str.splitlines`` end lines at other characters too, which a text may contain. Here only a
    newline ends one, or CR LF in a file all of whose lines end so. Byte-order marks at the start of lines are left out.

    Args:
        name: of the file's part on the command line, for messages.

    Raises:
        OptionError: the file can't be read.
        FairseqElError: it is empty or is not in UTF-8; with the line.
    """
    rule = f"{name} must be a file that can be read"
    refuse_endless(path, rule)
    content = read_content(path, rule)
    return lines_of(content, str(path), name)


def lines_of(content: bytes, path: str, name: str) -> TextLines:
    """The same of what was read already. ``path`` says where.

    Raises:
        FairseqElError: it is empty or is not in UTF-8; with the line.
    """
    text = _decode(content, path, name)
    if not text:
        raise FairseqElError(f"{name} must have lines; {path} is empty")
    is_ended = text.endswith("\n")
    lines = (text[:-1] if is_ended else text).split("\n")
    if _is_windows(lines, is_ended):
        lines = [line[:-1] if line.endswith("\r") else line for line in lines]
    return TextLines([without_mark(line) for line in lines], is_ended)


def without_mark(text: str) -> str:
    """A text without the byte-order mark that a file in front of it may have left."""
    return text[1:] if text.startswith(BYTE_ORDER_MARK) else text


def one_line(text: str) -> str:
    """A text with spaces for the characters at which a text file of Python ends a line."""
    return text.replace("\r\n", " ").replace("\r", " ").replace("\n", " ")


def _decode(content: bytes, path: str, name: str) -> str:
    other = _other_encoding(content)
    if other is not None:
        raise FairseqElError(
            f"{name} must be text in UTF-8; {path} is in {other}. Convert it: "
            f"iconv -f {other} -t UTF-8 {shlex.quote(path)} > {shlex.quote(f'{path}.utf8')}"
        )
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise FairseqElError(
            f"{name} must be text in UTF-8; {path} has byte {error.start}, in line {line}, that is not: "
            f"{error.reason}. Convert it with iconv, or make it again"
        ) from error


def _other_encoding(content: bytes) -> Optional[str]:
    """UTF-16 or UTF-32, told by a byte-order mark, or UTF-16 by its many zeros."""
    for mark in _UTF_16_AND_32:  # the mark of UTF-32 begins as that of UTF-16 does, and comes first
        if content.startswith(mark):
            return "UTF-32" if len(mark) == 4 else "UTF-16"
    start = content[: min(_LOOKED_AT, len(content) // 2 * 2)]
    for name, zeros in (("UTF-16LE", start[1::2]), ("UTF-16BE", start[::2])):
        if len(zeros) > 1 and zeros.count(0) > len(zeros) / 2:
            return name
    return None


def _is_windows(lines: List[str], is_ended: bool) -> bool:
    ended = lines if is_ended else lines[:-1]
    return bool(ended) and all(line.endswith("\r") for line in ended)
