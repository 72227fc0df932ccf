"""``fairseq-el merge``: the output of a job, from its journal."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from fairseq_el.cli.generate_job import report_failures
from fairseq_el.cli.parser import add_command
from fairseq_el.cli.streams import say_note
from fairseq_el.files import need_directory, refuse_to_overwrite
from fairseq_el.jobs import FORMATS, MissingResultsError, merge, read_run

_DESCRIPTION = """\
Writes the output of fairseq-el generate from the journal that one or more processes of it (--shard) have written, in
the order of the input. If lines are missing, nothing is written, and the exit status is 1. Merging again changes
nothing. Lines that have failed are empty, and named; the exit status is 1 then too. The journal stays: remove it when
it is no longer needed."""

_EXAMPLE = """\
examples:

  fairseq-el merge out.txt.journal
  fairseq-el merge out.txt.journal --format jsonl --output out.jsonl"""


def add_parser(commands: Any, summary: str) -> None:
    parser = add_command(commands, "merge", _run, summary, _DESCRIPTION, _EXAMPLE)
    parser.add_argument("journal", metavar="OUT.journal", type=Path, help="the directory of the journal")
    parser.add_argument(
        "--output", metavar="FILE", help="where to write; - is standard output (default: where the job was to write)"
    )
    parser.add_argument("--format", choices=FORMATS, help="of the output (default: the one that the job was given)")
    parser.add_argument("--force", action="store_true", help="let the output replace another file")
    parser.add_argument(
        "--if-complete",
        action="store_true",
        help="while lines are missing, say so and exit with status 0: for shards that each try to merge at their end",
    )


def _run(options: argparse.Namespace) -> int:
    try:
        return _merge(options)
    except MissingResultsError as error:
        if not options.if_complete:
            raise
        say_note(str(error))
        return 0


def _merge(options: argparse.Namespace) -> int:
    _, path = read_run(options.journal)
    if options.output is not None:
        path = Path(options.output)
    if path is None or options.output == "-":
        return _write_to_standard_output(options)
    refuse_to_overwrite(path, "--output", True, [options.journal])  # what may be replaced is seen when it is made
    need_directory(path, "--output")
    return report_failures(merge(options.journal, path, options.format, options.force))


def _write_to_standard_output(options: argparse.Namespace) -> int:
    try:
        return report_failures(merge(options.journal, sys.stdout.buffer, options.format))
    except OSError as error:
        error.filename = error.filename or "standard output"
        raise
