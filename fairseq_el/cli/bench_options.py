"""What the commands ``fairseq-el bench ...`` have in common: how to measure, and where results go."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any, Optional, Sequence

import torch

from fairseq_el.cards.check import check_device, usable_device, why_no_card
from fairseq_el.cli.numbers import not_negative, threads
from fairseq_el.cli.output import write_line
from fairseq_el.cli.report_files import check_directory, check_plot
from fairseq_el.errors import OptionError
from fairseq_el.measure import CAN_TRACK


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


def device_of(asked: Optional[str]) -> str:
    """Where to compute: as ``--device`` says, or on a card if there is one.

    Raises:
        OptionError: there is no card.
        NoKernelsError: this torch was not built for the card.
    """
    if asked == "cuda" and not torch.cuda.is_available():
        why = why_no_card()
        raise OptionError(
            "--device cuda needs a card that this torch can use, and there is none; use --device cpu"
            + (why and f". {why}")
        )
    if asked == "cuda":
        check_device(torch.device(asked))
    return asked or usable_device()


def check_results(options: argparse.Namespace, names: Sequence[str]) -> None:
    """Before anything is measured; see :mod:`fairseq_el.cli.report_files` for what is raised."""
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
