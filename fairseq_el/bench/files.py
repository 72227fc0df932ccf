"""The files of a report."""

from __future__ import annotations

import json
from pathlib import Path

from fairseq_el.bench.figures import draw
from fairseq_el.bench.report import Report
from fairseq_el.whole_files import write_whole

NAMES = ("bench.json", "bench.md", "bench.png")


def write_files(directory: Path, report: Report) -> None:
    """An unfinished file never has its final name."""
    directory.mkdir(parents=True, exist_ok=True)
    text = json.dumps(report.as_dict(), indent=2) + "\n"
    write_whole(directory / "bench.json", lambda path: path.write_text(text, "utf-8"))
    write_whole(directory / "bench.md", lambda path: path.write_text(report.as_markdown(), "utf-8"))
    write_whole(directory / "bench.png", lambda path: draw(path, report))
