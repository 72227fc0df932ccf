"""Files in the working directory of a recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Dict, Iterable

from fairseq_el.errors import FairseqElError
from fairseq_el.files.manifest import sha256_of


def checksums(work: Path, names: Iterable[str]) -> Dict[str, str]:
    """The SHA-256 of each file."""
    return {name: sha256_of(work / name) for name in dict.fromkeys(names)}


def require_files(work: Path, names: Iterable[str], step: str) -> None:
    """Before any work of a step is done.

    Raises:
        FairseqElError: some files are missing; all are named.
    """
    missing = [name for name in dict.fromkeys(names) if not (work / name).is_file()]
    if missing:
        raise FairseqElError(
            f"{step} needs {len(missing)} files that are not in {work}: {', '.join(missing)}. Run first: "
            "fairseq-el recipe download, which says where they come from"
        )
