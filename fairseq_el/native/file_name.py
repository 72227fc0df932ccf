"""The file name of the compiled extension. ``setup.py`` runs this module by itself, before anything is installed."""

from __future__ import annotations

import hashlib
from pathlib import Path

MODULE = "fairseq_el._native"


def file_stem(torch_version: str, package: Path) -> str:
    """Names the extension that belongs to a torch and to the sources in ``package/csrc``.

    Environments with other torches may share the directory of the package, as editable installations do. Each has its
    own file there, and none loads that of another. A file of other sources is not found either.
    """
    sources = hashlib.sha256()
    for path in sorted([*package.glob("csrc/*.h"), *package.glob("csrc/*.cpp")]):
        sources.update(f"{path.name}\n".encode() + path.read_bytes())
    return f"_native-torch-{torch_version}-{sources.hexdigest()[:12]}"
