"""Files that a user names: what a path leads to, and its content, or one sentence that refuses it."""

from __future__ import annotations

import codecs
import errno
import json
import os
import re
import shlex
import stat
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Optional, Tuple, Type, Union

from fairseq_el.errors import FairseqElError, OptionError, shortened, summary_of

FILE, DIRECTORY, FIFO = "a file", "a directory", "a FIFO"
_KINDS = {
    stat.S_IFREG: FILE,
    stat.S_IFDIR: DIRECTORY,
    stat.S_IFIFO: FIFO,
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}
_STREAM = re.compile(r"/dev/(stdin|stdout|stderr|fd/\d+)|/proc/.*")
BYTE_ORDER_MARK = "\ufeff"
_DEEPEST = 100  # levels of nested dictionaries and lists
_HINTS = {FIFO: ", which may never end: write what comes out of it to a file first", DIRECTORY: ""}
_UTF_16_AND_32 = (codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_LOOKED_AT = 4096  # bytes


def kind_in(mode: int) -> str:
    """Names the kind that ``st_mode`` of ``os.stat`` has."""
    return _KINDS.get(stat.S_IFMT(mode), "of an unknown kind")


def kind_of(path: Path) -> Optional[str]:
    """Names the kind of what a path leads to; None if there is nothing. Links are followed."""
    if _STREAM.fullmatch(os.path.abspath(path)):
        return "a stream of a process"
    try:
        return kind_in(os.stat(path).st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        if error.errno == errno.ELOOP:
            return "a link that leads to itself"
        raise


def require_file(path: Union[str, Path], rule: str) -> None:
    """Refuses what is not a file before it is opened: opening a FIFO would wait for a program that writes to it.

    Args:
        rule: first half of the message, such as ``"CKPT must be a checkpoint that fairseq wrote"``.

    Raises:
        OptionError: it is not there, or is not a file.
    """
    problem = _why_not_file(path)
    if problem is not None:
        raise OptionError(f"{rule}; {path} {problem}")


def refuse_endless(path: Union[str, Path], rule: str) -> None:
    """Refuses what may never end. The pipes of a shell do end: ``/dev/stdin`` and ``<(...)``.

    Raises:
        OptionError: it is another FIFO, or a device.
    """
    if os.path.exists(path) and not str(path).startswith(("/dev/stdin", "/dev/fd/", "/proc/self/fd/")):
        require_file(path, rule)


def _why_not_file(path: Union[str, Path]) -> Optional[str]:
    """Says why a path does not lead to a file; None if it does."""
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        return f"is a link to {os.readlink(path)}, which does not exist" if os.path.islink(path) else "does not exist"
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        return f"can't be opened: {getattr(error, 'strerror', None) or error}"
    kind = kind_in(mode)
    return None if kind == FILE else f"is {kind}{_HINTS.get(kind, ', not a file')}"


def read_text(path: Path, rule: str, unreadable: Type[FairseqElError] = FairseqElError) -> str:
    """Reads a text in UTF-8, with the line ends that it has.

    Args:
        rule: as for :func:`require_file`.
        unreadable: raised for a file that is there and can't be read.

    Raises:
        OptionError: it is not there, or is not a file.
        FairseqElError: it is not text in UTF-8.
    """
    require_file(path, rule)
    content = _read_bytes(path, rule, unreadable)
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise FairseqElError(f"{rule}, in UTF-8; byte {error.start} of {path} is not: {error.reason}") from error


def _read_bytes(path: Path, rule: str, unreadable: Type[FairseqElError]) -> bytes:
    try:
        return path.read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise unreadable(f"{rule}; {path} can't be read: {getattr(error, 'strerror', None) or error}") from error


def read_json(path: Path) -> Dict[str, Any]:
    """Reads a JSON object. A key that is there twice must have the same value.

    Raises:
        FairseqElError: the file can't be read, or has no JSON object.
    """
    rule = f"{path.name} must be a JSON file"
    try:
        text = read_text(path, rule)
    except OptionError as error:
        raise FairseqElError(str(error)) from error
    try:
        value = json.loads(text, object_pairs_hook=_without_conflicts)
        if nested_too_deep(value):
            raise ValueError(f"it is nested more than {_DEEPEST} levels deep")
        json.dumps(value, ensure_ascii=False).encode("utf-8")  # fails for lone surrogates, such as \\ud800
    except (ValueError, RecursionError) as error:
        raise FairseqElError(f"{path} must be a JSON file; {summary_of(error)}. Copy it again") from error
    if not isinstance(value, dict):
        raise FairseqElError(f"{path} must hold a JSON object; it holds a {type(value).__name__}")
    return value


def _without_conflicts(pairs: List[Tuple[str, Any]]) -> Dict[str, Any]:
    """Builds an object whose keys have one value each; by itself, ``json`` takes the last."""
    found: Dict[str, Any] = {}
    for key, value in pairs:
        if key in found and found[key] != value:
            raise ValueError(f"{shortened(repr(key))} is there twice, with different values")
        found[key] = value
    return found


def nested_too_deep(value: Any) -> bool:
    """Says whether dictionaries and lists are nested deeper than programs write them, or contain themselves."""
    level = {id(value): value}
    for _ in range(_DEEPEST):
        outer = [each for each in level.values() if isinstance(each, (dict, list))]
        if not outer:
            return False
        inner = (part for each in outer for part in (each.values() if isinstance(each, dict) else each))
        level = {id(part): part for part in inner}
    return True


class TextLines(NamedTuple):
    """Lines of a file without their ends, and whether the last one has an end."""

    lines: List[str]
    is_ended: bool


def read_lines(path: Path, name: str) -> TextLines:
    """Reads a text in UTF-8, by line.

    Python's text files and ``str.splitlines`` end lines at other characters too, which a text may contain. Here only a
    newline ends one, or CR LF in a file all of whose lines end so. Byte-order marks at the start of lines are left out.

    Args:
        name: of the file on the command line, for messages.

    Raises:
        OptionError: the file can't be read.
        FairseqElError: it is empty or is not in UTF-8; with the line.
    """
    rule = f"{name} must be a file that can be read"
    refuse_endless(path, rule)
    return lines_of(_read_bytes(path, rule, OptionError), str(path), name)


def lines_of(content: bytes, path: str, name: str) -> TextLines:
    """Cuts the content of a file into lines as :func:`read_lines` does. ``path`` says where it was read.

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
    """The text without a byte-order mark at its start."""
    return text[1:] if text.startswith(BYTE_ORDER_MARK) else text


def one_line(text: str) -> str:
    """The text with a space for each line end: CR LF, CR or LF."""
    return text.replace("\r\n", " ").replace("\r", " ").replace("\n", " ")


def _decode(content: bytes, path: str, name: str) -> str:
    other = other_encoding(content)
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


def other_encoding(content: bytes) -> Optional[str]:
    """Recognises UTF-16 and UTF-32 by a byte-order mark, and UTF-16 by its many zeros."""
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
