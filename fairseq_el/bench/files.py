"""The files of a report."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Callable

from fairseq_el.bench.figures import draw
from fairseq_el.bench.methods import optional_module
from fairseq_el.bench.report import Report
from fairseq_el.errors import OptionError

NAMES = ("bench.json", "bench.md", "bench.png")


def check_directory(directory: Path, force: bool) -> None:
    """Before anything is measured.

    Raises:
        OptionError: a file would be overwritten, or the directory can't be one.
        FairseqElError: matplotlib is missing.
    """
    optional_module("matplotlib")
    if directory.exists() and not directory.is_dir():
        raise OptionError(f"--out must be a directory; {directory} is a file")
    existing = [name for name in NAMES if (directory / name).exists()]
    if existing and not force:
        raise OptionError(f"--out {directory} has {', '.join(existing)} already; choose another one, or add --force")


def write_files(directory: Path, report: Report) -> None:
    """An unfinished file never has its final name."""
    directory.mkdir(parents=True, exist_ok=True)
    text = json.dumps(report.as_dict(), indent=2) + "\n"
    _write(directory / "bench.json", lambda path: path.write_text(text, "utf-8"))
    _write(directory / "bench.md", lambda path: path.write_text(report.as_markdown(), "utf-8"))
    _write(directory / "bench.png", lambda path: draw(path, report))


def _write(path: Path, write: Callable[[Path], object]) -> None:
    unfinished = path.with_name(f".{path.stem}.unfinished{path.suffix}")
    try:
        write(unfinished)
        unfinished.replace(path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            unfinished.unlink()
