"""``fairseq-el progress``: how far a job is."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fairseq_el.cli.parser import add_command
from fairseq_el.cli.streams import write_line
from fairseq_el.jobs import progress_lines, progress_of

_DESCRIPTION = """\
Says how far fairseq-el generate is, from the journal that one or more processes write, on this machine or others: lines
done, sentences and tokens per second, the time that is left, results that wait for an earlier line, and restarts."""


def add_parser(commands: Any, summary: str) -> None:
    parser = add_command(commands, "progress", _run, summary, _DESCRIPTION)
    parser.add_argument("journal", metavar="OUT.journal", type=Path, help="the directory of the journal")
    parser.add_argument("--json", action="store_true", help="print it for programs")


def _run(options: argparse.Namespace) -> int:
    progress = progress_of(options.journal)
    write_line(json.dumps(asdict(progress), indent=2) if options.json else "\n".join(progress_lines(progress)))
    return 0
