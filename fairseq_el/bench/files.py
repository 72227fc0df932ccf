"""The files of a report."""

from __future__ import annotations

import json
from pathlib import Path

from fairseq_el.bench.figures import draw
from fairseq_el.bench.methods import optional_module
from fairseq_el.bench.report import Report
from fairseq_el.errors import OptionError
from fairseq_el.whole_files import write_whole

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
    write_whole(directory / "bench.json", lambda path: path.write_text(text, "utf-8"))
    write_whole(directory / "bench.md", lambda path: path.write_text(report.as_markdown(), "utf-8"))
    write_whole(directory / "bench.png", lambda path: draw(path, report))
