"""Files that a user names: read whole, or refused in one sentence."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any, Dict, List, Optional, Tuple, Type, Union

from fairseq_el.errors import FairseqElError, OptionError, shortened, summary_of

_LEVELS = 100
FILE, DIRECTORY = "a file", "a directory"
_KINDS = {
    stat.S_IFREG: FILE,
    stat.S_IFDIR: DIRECTORY,
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}
_HINTS = {"a FIFO": ", which may never end: write what comes out of it to a file first", DIRECTORY: ""}


def kind_in(mode: int) -> str:
    """What ``st_mode`` of ``os.stat`` says of something: a file, a directory, a device, ..."""
    return _KINDS.get(stat.S_IFMT(mode), "of an unknown kind")


def require_file(path: Union[str, Path], rule: str) -> None:
    """Before a file is opened: opening a FIFO would wait for whoever writes to it.

    Args:
        rule: the first half of the message, as ``"CKPT must be a checkpoint that fairseq wrote"``.

    Raises:
        OptionError: it is not there, or is no file.
    """
    wrong = _what_else(path)
    if wrong is not None:
        raise OptionError(f"{rule}; {path} {wrong}")


def refuse_endless(path: Union[str, Path], rule: str) -> None:
    """Before something is opened that may be a pipe of a shell, ``/dev/stdin`` or ``<(...)``, if it is no file.

    Raises:
        OptionError: it is a FIFO or a device.
    """
    if os.path.exists(path) and not str(path).startswith(("/dev/stdin", "/dev/fd/", "/proc/self/fd/")):
        require_file(path, rule)


def _what_else(path: Union[str, Path]) -> Optional[str]:
    """What keeps something from being a file; None if it is one."""
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        return f"is a link to {os.readlink(path)}, which does not exist" if os.path.islink(path) else "does not exist"
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        return f"can't be opened: {getattr(error, 'strerror', None) or error}"
    kind = kind_in(mode)
    return None if kind == FILE else f"is {kind}{_HINTS.get(kind, ', not a file')}"


def read_text(path: Path, rule: str, unreadable: Type[FairseqElError] = FairseqElError) -> str:
    """A text in UTF-8, with the line ends that it has.

    Args:
        rule: as for :func:`require_file`.
        unreadable: raised for a file that is there and can't be read.

    Raises:
        OptionError: it is not there, or is no file.
        FairseqElError: it is no text in UTF-8.
    """
    require_file(path, rule)
    content = read_content(path, rule, unreadable)
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise FairseqElError(f"{rule}, in UTF-8; byte {error.start} of {path} is not: {error.reason}") from error


def read_content(path: Path, rule: str, unreadable: Type[FairseqElError] = OptionError) -> bytes:
    """All bytes of a file, or of a pipe of a shell; see :func:`refuse_endless`. ``unreadable`` is raised otherwise."""
    try:
        return path.read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise unreadable(f"{rule}; {path} can't be read: {getattr(error, 'strerror', None) or error}") from error


def read_json(path: Path) -> Dict[str, Any]:
    """
    Raises:
        FairseqElError: the file can't be read, or is no JSON object.
    """
    rule = f"{path.name} must be a JSON file"
    try:
        text = read_text(path, rule)
    except OptionError as error:
        raise FairseqElError(str(error)) from error
    try:
        value = json.loads(text, object_pairs_hook=_once)
        if nested_too_deep(value):
            raise ValueError(f"it is nested more than {_LEVELS} levels deep")
        json.dumps(value, ensure_ascii=False).encode("utf-8")  # fails for halves of characters, as \\ud800
    except (ValueError, RecursionError) as error:
        raise FairseqElError(f"{path} must be a JSON file; {summary_of(error)}. Copy it again") from error
    if not isinstance(value, dict):
        raise FairseqElError(f"{path} must hold a JSON object; it holds a {type(value).__name__}")
    return value


def _once(pairs: List[Tuple[str, Any]]) -> Dict[str, Any]:
    """An object whose keys have one value each; by itself, ``json`` takes the last."""
    found: Dict[str, Any] = {}
    for key, value in pairs:
        if key in found and found[key] != value:
            raise ValueError(f"{shortened(repr(key))} is there twice, with different values")
        found[key] = value
    return found


def nested_too_deep(value: Any) -> bool:
    """Whether dictionaries and lists lie in each other so deep that no program writes it, or even in themselves."""
    level = {id(value): value}
    for _ in range(_LEVELS):
        outer = [each for each in level.values() if isinstance(each, (dict, list))]
        if not outer:
            return False
        inner = (part for each in outer for part in (each.values() if isinstance(each, dict) else each))
        level = {id(part): part for part in inner}
    return True
