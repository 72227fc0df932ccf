"""What says that a directory was made by this package: a record in it, of all files that were written."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any, Dict, List, Optional, Tuple

from fairseq_el.errors import FairseqElError

RECORD = "made_by_fairseq_el.json"
CHUNK = 1 << 20  # bytes at a time
_SHOWN = 5


def sha256_of(path: Path) -> str:
    """Of a file's bytes, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        for chunk in iter(lambda: file.read(CHUNK), b""):
            digest.update(chunk)
    return digest.hexdigest()


def write_record(directory: Path, by: str, made_from: Optional[Dict[str, Any]] = None) -> None:
    """Records every file in a directory.

    Args:
        by: what made it, as ``"fairseq-el recipe generate"``.
        made_from: settings, and checksums of files; must be what ``json`` can write.
    """
    files = {name: sha256_of(directory / name) for name in _files(directory)}
    record = {"made_by": by, "made_from": made_from or {}, "files": files}
    (directory / RECORD).write_text(json.dumps(record, indent=2, sort_keys=True) + "\n", "utf-8")


def made_from(directory: Path, by: str) -> Optional[Dict[str, Any]]:
    """What a directory was made from; None if it is not there, or has no record of ``by``."""
    record = _read(directory, by)
    return None if record is None else record.get("made_from")


def refuse_unless_own(directory: Path, by: str) -> None:
    """
    Raises:
        FairseqElError: something is there that ``by`` has not made as it is now.
    """
    while True:
        before = _identity(directory)
        try:
            problem = _why_not_own(directory, by)
        except FileNotFoundError:
            continue
        if problem is None:
            return
        if _identity(directory) == before:  # or else it was replaced while it was read
            raise FairseqElError(
                f"{directory} {problem}. Nothing was replaced: move away what you want to keep, and remove the rest"
            )


def has_record(directory: Path, by: str) -> bool:
    """Whether there is nothing, an empty directory, or one that ``by`` has made, whatever else lies in it now."""
    try:
        return _read(directory, by) is not None or not os.listdir(directory)
    except FileNotFoundError:
        return True
    except OSError:  # it is a file, or can't be read
        return False


def _why_not_own(directory: Path, by: str) -> Optional[str]:
    if not has_record(directory, by):
        return f"was not made by {by}, or by another version of it: it has no {RECORD} that says so"
    record = _read(directory, by)
    if record is None:
        return None
    if not directory.stat().st_mode & 0o222:
        return "is read-only"
    known = record["files"]
    others = [name for name in _files(directory) if name != RECORD and not _is_as(directory / name, known.get(name))]
    if not others:
        return None
    more = f" and {len(others) - _SHOWN} more" if len(others) > _SHOWN else ""
    return f"has files that {by} did not write, or that were changed since: {', '.join(others[:_SHOWN])}{more}"


def _is_as(path: Path, sha256: Optional[str]) -> bool:
    try:
        return sha256 is not None and path.is_file() and not path.is_symlink() and sha256_of(path) == sha256
    except FileNotFoundError:  # removed meanwhile
        return False


def _identity(directory: Path) -> Optional[Tuple[int, int]]:
    try:
        state = os.stat(directory)
    except OSError:
        return None
    return state.st_dev, state.st_ino


def _files(directory: Path) -> List[str]:
    """All that are no directories, links among them, by their paths inside."""
    found = []
    for above, directories, files in os.walk(directory):
        links = [name for name in directories if os.path.islink(os.path.join(above, name))]
        found += [os.path.relpath(os.path.join(above, name), directory) for name in (*links, *files)]
    return sorted(found)


def _read(directory: Path, by: str) -> Optional[Dict[str, Any]]:
    path = directory / RECORD
    try:
        record = None if path.is_symlink() else json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(record, dict) or record.get("made_by") != by or not isinstance(record.get("files"), dict):
        return None
    return record
