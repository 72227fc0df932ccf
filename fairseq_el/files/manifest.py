"""The manifest of a directory: which command made it, from what, and the checksums of all files it wrote.

Only a directory with a manifest is ever replaced, and only by the command that made it.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any, Dict, List, Optional, Tuple

from fairseq_el.errors import FairseqElError

MANIFEST = "made_by_fairseq_el.json"
CHUNK = 1 << 20  # bytes at a time
_SHOWN = 5  # names of files in a message


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        for chunk in iter(lambda: file.read(CHUNK), b""):
            digest.update(chunk)
    return digest.hexdigest()


def write_manifest(directory: Path, by: str, inputs: Optional[Dict[str, Any]] = None) -> None:
    """Writes the manifest of all files in a directory into it.

    Args:
        by: the command that made it, such as ``"fairseq-el recipe generate"``.
        inputs: settings, and checksums of files; values that ``json`` can write.
    """
    files = {name: sha256_of(directory / name) for name in _files(directory)}
    manifest = {"made_by": by, "made_from": inputs or {}, "files": files}
    (directory / MANIFEST).write_text(json.dumps(manifest, indent=2, sort_keys=True) + "\n", "utf-8")


def inputs_of(directory: Path, by: str) -> Optional[Dict[str, Any]]:
    """Reads what a directory was made from; None if it is not there, or has no manifest of ``by``."""
    manifest = _read(directory, by)
    return None if manifest is None else manifest.get("made_from")


def refuse_unless_own(directory: Path, by: str) -> None:
    """Refuses to replace a directory that is not as a command has made it.

    Raises:
        FairseqElError: something is there that ``by`` did not make, or that was changed since.
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


def is_unused_or_own(directory: Path, by: str) -> bool:
    """Says whether a path leads to nothing, to an empty directory, or to one that ``by`` has made.

    Files that were added to it or changed since are not looked for: see :func:`refuse_unless_own`.
    """
    try:
        return _read(directory, by) is not None or not os.listdir(directory)
    except FileNotFoundError:
        return True
    except OSError:  # it is a file, or can't be read
        return False


def _why_not_own(directory: Path, by: str) -> Optional[str]:
    if not is_unused_or_own(directory, by):
        return f"was not made by {by}, or by another version of it: it has no {MANIFEST} that says so"
    manifest = _read(directory, by)
    if manifest is None:
        return None
    if not directory.stat().st_mode & 0o222:
        return "is read-only"
    listed = manifest["files"]
    others = [
        name for name in _files(directory) if name != MANIFEST and not _has_checksum(directory / name, listed.get(name))
    ]
    if not others:
        return None
    more = f" and {len(others) - _SHOWN} more" if len(others) > _SHOWN else ""
    return f"has files that {by} did not write, or that were changed since: {', '.join(others[:_SHOWN])}{more}"


def _has_checksum(path: Path, sha256: Optional[str]) -> bool:
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
    """Lists everything in a directory except directories, by the paths inside. Links to directories are listed."""
    found = []
    for above, directories, files in os.walk(directory):
        links = [name for name in directories if os.path.islink(os.path.join(above, name))]
        found += [os.path.relpath(os.path.join(above, name), directory) for name in (*links, *files)]
    return sorted(found)


def _read(directory: Path, by: str) -> Optional[Dict[str, Any]]:
    path = directory / MANIFEST
    try:
        manifest = None if path.is_symlink() else json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(manifest, dict) or manifest.get("made_by") != by or not isinstance(manifest.get("files"), dict):
        return None
    return manifest
