"""The file ``run.json`` of a journal: all that must be the same when the job is resumed."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import platform
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any, Dict, Iterator, List, Mapping, Optional, Sequence, Tuple

from fairseq_el.errors import FairseqElError, shortened
from fairseq_el.files import kind_of, read_json, sha256_of
from fairseq_el.jobs.disk import sync_directory, write_whole_to_disk
from fairseq_el.jobs.input import Input

RUN_FILE = "run.json"
_VERSION = 1  # of all files in a journal
_NOT_THERE = "not there"
_PACKAGES = ("fairseq_el", "fairseq", "torch")

logger = logging.getLogger(__name__)


def installed_versions() -> Dict[str, str]:
    """Versions of Python and of the packages that decode."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:  # on the path, but not installed
            continue
    return found


@dataclass(frozen=True)
class Run:
    """A job as its user has asked for it.

    Attributes:
        fingerprint: all that can change a hypothesis; see :func:`fingerprint_of`.
        input: the lines that are read.
        format: of the output, one of ``FORMATS``.
        versions: of packages; they may change.
    """

    fingerprint: Mapping[str, Any]
    input: Input
    format: str = "text"
    versions: Mapping[str, str] = field(default_factory=installed_versions)


def fingerprint_of(files: Mapping[str, Sequence[Path]], options: Mapping[str, Any]) -> Dict[str, Any]:
    """The fingerprint of a job: checksums of files, and options.

    Args:
        files: under names for messages, such as ``"checkpoints"``; their contents count, their paths do not.
        options: those that can change a hypothesis; values that ``json`` can write, or that have a name as text.
    """
    checksums = {name: [sha256_of(path) for path in paths] for name, paths in files.items()}
    return {**checksums, "options": dict(options)}


def write_run(directory: Path, run: Run, output: Optional[Path]) -> None:
    """Writes the file of a new journal.

    Args:
        output: the file that the results are for, if there is one.

    Raises:
        FairseqElError: another process has written one meanwhile.
    """
    relative = None if output is None else os.path.relpath(output, directory)
    content = _plain({"version": _VERSION, **asdict(run), "output": relative})
    text = json.dumps({**content, "sha256": _checksum(content)}, indent=2) + "\n"
    write_whole_to_disk(directory / RUN_FILE, text)
    sync_directory(directory.parent)


def read_run(directory: Path) -> Tuple[Run, Optional[Path]]:
    """Reads the file of a journal.

    Returns:
        the job, and the file that its results are for.

    Raises:
        FairseqElError: it is not there, is damaged, or another version has written it.
    """
    path = directory / RUN_FILE
    if kind_of(path) is None:
        raise FairseqElError(f"{directory} must be a journal of fairseq-el generate; it has no {RUN_FILE}")
    content = read_json(path)
    if content.get("version") != _VERSION:
        raise FairseqElError(
            f"{path} must be of version {_VERSION} of journals; it is of version {content.get('version')!r}. Use the "
            "fairseq_el that made it, or remove the journal"
        )
    checksum = content.pop("sha256", None)
    if checksum != _checksum(content):
        raise FairseqElError(f"{path} is damaged: its checksum is that of another text. Remove the journal")
    run = Run(content["fingerprint"], Input(**content["input"]), content["format"], content["versions"])
    output = content["output"]
    return run, None if output is None else Path(os.path.normpath(directory / output))


def differences(before: Run, now: Run) -> List[str]:
    """Names all that was changed and must not be: one line each, such as ``options.beam: 5 before, 4 now``."""
    then, given = (dict(_flattened(_plain(_compared(run)))) for run in (before, now))
    names = sorted({*then, *given})
    return [
        f"{name}: {_shown(then.get(name, _NOT_THERE))} before, {_shown(given.get(name, _NOT_THERE))} now"
        for name in names
        if then.get(name, _NOT_THERE) != given.get(name, _NOT_THERE)
    ]


def note_versions(before: Run, now: Run) -> None:
    """Logs which packages have other versions now. With another torch, a last digit may differ."""
    changed = [
        f"{name} {version}, now {now.versions.get(name)}"
        for name, version in before.versions.items()
        if now.versions.get(name) != version
    ]
    if changed:
        logger.warning("results so far were made with %s; scores may differ in the last digit", ", ".join(changed))


def _compared(run: Run) -> Dict[str, Any]:
    """The name of the input is left out: a copy of it does as well."""
    read = {key: value for key, value in asdict(run.input).items() if key != "name"}
    return {**run.fingerprint, "input": read, "format": run.format}


def _flattened(value: Any, name: str = "") -> Iterator[Tuple[str, Any]]:
    """All values under names such as ``options.beam`` and ``checkpoints.0``."""
    if isinstance(value, (dict, list)) and value:
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _flattened(inner, f"{name}.{key}" if name else str(key))
    else:
        yield name, value


def _shown(value: Any) -> str:
    if isinstance(value, str) and len(value) == 64:  # a checksum
        return f"{value[:12]}..."
    return value if value == _NOT_THERE else shortened(json.dumps(value, ensure_ascii=False))


def _plain(value: Any) -> Any:
    """The value as it is read back from JSON; what JSON lacks becomes text."""
    return json.loads(json.dumps(value, default=str))


def _checksum(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode("utf-8")).hexdigest()
