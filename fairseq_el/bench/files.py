"""The files of a report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Dict

from fairseq_el.bench.plots import draw
from fairseq_el.bench.report import Report
from fairseq_el.files.whole_files import write_whole

NAMES = ("bench.json", "bench.md", "bench.png")


def write_files(directory: Path, report: Report, force: bool) -> None:
    """An unfinished file never has its final name, and with ``force`` files of these names are replaced."""
    write_texts(directory, "bench", report.as_dict(), report.as_markdown(), force)
    write_whole(directory / "bench.png", lambda path: draw(path, report), force)


def write_texts(directory: Path, stem: str, report: Dict[str, Any], markdown: str, force: bool) -> None:
    """``<stem>.json`` for programs and ``<stem>.md`` for people, in a directory that is made if need be."""
    directory.mkdir(parents=True, exist_ok=True)
    text = json.dumps(report, indent=2) + "\n"
    write_whole(directory / f"{stem}.json", lambda path: path.write_text(text, "utf-8"), force)
    write_whole(directory / f"{stem}.md", lambda path: path.write_text(markdown, "utf-8"), force)
