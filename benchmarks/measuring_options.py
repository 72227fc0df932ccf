"""Options that the benchmarks of layers and of training share: how to measure, and where results go."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from pathlib import Path
from typing import Any, Callable, Optional, Sequence

import torch

from fairseq_el.cli.main import report_errors
from fairseq_el.cli.options import check_directory, check_plot, device_of, not_negative, threads
from fairseq_el.cli.parser import Parser
from fairseq_el.cli.streams import write_line
from fairseq_el.errors import OptionError
from fairseq_el.measure import CAN_TRACK


def make_parser(program: str, description: str, examples: str) -> argparse.ArgumentParser:
    """A parser that says what is wrong in one line. Args: ``program``: the name of the file."""
    return Parser(
        prog=program,
        description=description,
        epilog=examples,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )


def run_benchmark(
    parser: argparse.ArgumentParser, measure: Callable[[argparse.Namespace], None], arguments: Optional[Sequence[str]]
) -> int:
    """Reads the command line, measures, and returns the exit status. Errors are one line on standard error."""
    given = list(sys.argv[1:] if arguments is None else arguments)

    def command() -> int:
        options = parser.parse_args(given)
        options.command_line = shlex.join(["python", f"benchmarks/{parser.prog}", *given])
        measure(options)
        return 0

    return report_errors(command, parser.prog)


def add_measuring(parser: argparse.ArgumentParser, runs: int) -> None:
    """Args: ``runs``: the default number of rounds."""
    parser.add_argument(
        "--runs", type=not_negative, default=runs, metavar="N", help="rounds; 0: bytes only (default: %(default)s)"
    )
    parser.add_argument("--threads", type=threads, metavar="N", help="of torch (default: as torch has them)")
    parser.add_argument("--device", choices=["cpu", "cuda"], help="where (default: cuda where there is a card)")


def add_results(parser: argparse.ArgumentParser, names: Sequence[str]) -> None:
    """Args: ``names``: of the files that ``--out`` gets."""
    files = f"{', '.join(names[:-1])} and {names[-1]}"
    parser.add_argument("--out", type=Path, metavar="DIR", help=f"write {files} there")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw bytes and time")
    parser.add_argument("--json", action="store_true", help="print everything for programs, instead of the table")
    parser.add_argument("--force", action="store_true", help="let --out and --plot overwrite")


def check_measuring(options: argparse.Namespace) -> None:
    """
    Raises:
        OptionError: nothing would be measured, or there is no card.
        NoKernelsError: this torch was not built for the card.
    """
    options.device = device_of(options.device)
    if not options.runs and not CAN_TRACK:
        raise OptionError(f"--runs must be at least 1: torch {torch.__version__} can't count bytes (2.1 can)")


def check_results(options: argparse.Namespace, names: Sequence[str]) -> None:
    """Before anything is measured; see :mod:`fairseq_el.cli.options` for what is raised."""
    if options.plot is not None:
        check_plot(options.plot, options.force)
    if options.out is not None:
        check_directory(options.out, names, options.force, plot=options.plot)


def give_results(options: argparse.Namespace, report: Any) -> None:
    """Prints first: what was measured shall not be lost with a picture that can't be drawn."""
    write_line(json.dumps(report.as_dict(), indent=2) if options.json else report.as_text())
    if options.out is not None:
        report.write(options.out, options.force)
    if options.plot is not None:
        report.plot(options.plot, options.force)
