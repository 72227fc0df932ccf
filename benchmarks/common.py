"""Holds what the benchmarks share: options, errors, and the report that is made of the results."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Dict, Optional, Sequence, Tuple

import torch
from tabulate import tabulate
from tqdm import tqdm

from fairseq_el.cli.main import report_errors
from fairseq_el.cli.options import check_directory, check_plot, device_of, not_negative, positive, threads
from fairseq_el.cli.parser import Parser
from fairseq_el.cli.streams import write_line
from fairseq_el.errors import FairseqElError, OptionError
from fairseq_el.files import write_whole
from fairseq_el.measure import CAN_TRACK

Arguments = Optional[Sequence[str]]


def make_parser(program: str, description: Optional[str], examples: str = "") -> argparse.ArgumentParser:
    """A parser that says what is wrong in one line. Args: ``program``: the name of the file."""
    return Parser(
        prog=program,
        description=description,
        epilog=examples,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )


def run_benchmark(
    parser: argparse.ArgumentParser,
    measure: Callable[[argparse.Namespace], None],
    arguments: Arguments = None,
) -> int:
    """Reads the command line, measures, and returns the exit status. Errors are one line on standard error.

    Args:
        measure: gets the options, ``command_line`` among them.
        arguments: of the command line (default: those of this process).
    """
    given = list(sys.argv[1:] if arguments is None else arguments)

    def command() -> int:
        options = parser.parse_args(given)
        options.command_line = shlex.join(["python", f"benchmarks/{parser.prog}", *given])
        measure(options)
        return 0

    return report_errors(command, parser.prog)


def numbers(text: str, number: Callable[[str], int] = positive) -> Tuple[int, ...]:
    """``"128,256"`` to its numbers, each of them once. Args: ``number``: the type of one."""
    return tuple(dict.fromkeys(number(part) for part in text.split(",")))


def probability(text: str) -> float:
    """A probability: from 0 on, below 1."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 0 and below 1; got {text!r}")
    return value


def add_numbers(parser: Any, options: Sequence[Tuple[str, int, str]]) -> None:
    """Adds options that take a number from 1 on. Args: ``options``: name, default and meaning of each."""
    for name, default, meaning in options:
        text = f"{meaning} (default: {default})"
        parser.add_argument(f"--{name}", type=positive, default=default, metavar="N", help=text)


def add_measuring(parser: argparse.ArgumentParser, runs: int) -> None:
    """Adds the options that say how to measure. Args: ``runs``: the default number of rounds."""
    parser.add_argument(
        "--runs", type=not_negative, default=runs, metavar="N", help="rounds; 0: bytes only (default: %(default)s)"
    )
    parser.add_argument("--threads", type=threads, metavar="N", help="of torch (default: as torch has them)")
    add_device(parser)


def add_device(parser: Any) -> None:
    parser.add_argument("--device", choices=["cpu", "cuda"], help="where (default: cuda where there is a card)")


def add_results(parser: argparse.ArgumentParser, names: Sequence[str]) -> None:
    """Adds the options that say where results go. Args: ``names``: of the files that ``--out`` gets."""
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
    """Before anything is measured; see :mod:`fairseq_el.cli.options` for the errors raised."""
    if options.plot is not None:
        check_plot(options.plot, options.force)
    if options.out is not None:
        check_directory(options.out, names, options.force, plot=options.plot)


@dataclass(frozen=True)
class Panel:
    """One diagram, both axes logarithmic.

    Attributes:
        along: the name of the horizontal axis.
        curves: points by label; None where a value is not known.
    """

    title: str
    along: str
    curves: Dict[str, Sequence[Tuple[float, Optional[float]]]]

    def known(self) -> Dict[str, Sequence[Tuple[float, float]]]:
        """The curves, each without the points that are not known, and in order."""
        curves = {name: sorted((x, y) for x, y in points if y) for name, points in self.curves.items()}
        return {name: points for name, points in curves.items() if points}


@dataclass(frozen=True)
class Report:
    """The results of one call.

    Attributes:
        names: files that ``--out`` gets: ``NAME.json``, ``NAME.md``, and the picture if ``NAME.png`` is one of them.
        values: everything, as JSON has it.
        rows: of the table, text by the name of the column.
        notes: lines under the table.
        panels: of the picture, one list for each row.
    """

    names: Sequence[str]
    values: Dict[str, Any]
    rows: Sequence[Dict[str, str]]
    notes: Sequence[str]
    panels: Sequence[Sequence[Panel]]

    def as_text(self, style: str = "simple") -> str:
        return f"{table(self.rows, style)}\n\n" + "\n".join(self.notes)

    def draw(self, path: Path, force: bool) -> None:
        """Draws the picture. A column of panels without any point is left out.

        Raises:
            FairseqElError: no panel has a point.
        """
        columns = [panels for panels in zip(*self.panels) if any(panel.known() for panel in panels)]
        if not columns:
            raise FairseqElError(
                f"there is nothing to draw in {path}: every method would need more than --memory and was left out"
            )
        draw_panels([list(row) for row in zip(*columns)], path, force)


def table(rows: Sequence[Dict[str, str]], style: str = "simple") -> str:
    """All columns aligned on the right, in a style of ``tabulate``."""
    alignment = ("right",) * len(rows[0])
    return tabulate(rows, headers="keys", tablefmt=style, disable_numparse=True, colalign=alignment)


def draw_panels(panels: Sequence[Sequence[Panel]], path: Path, force: bool) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6 * len(panels[0]), 4.5 * len(panels)))
    FigureCanvasAgg(figure)
    for places, row in zip(figure.subplots(len(panels), len(panels[0]), squeeze=False), panels):
        for axes, panel in zip(places, row):
            for name, points in panel.known().items():
                axes.plot(*zip(*points), marker="o", label=name)
            axes.set_xscale("log", base=2)
            axes.set_yscale("log")
            axes.set_xlabel(panel.along)
            axes.set_title(panel.title)
            axes.legend(frameon=False)
    figure.tight_layout()
    write_whole(path, lambda unfinished: figure.savefig(unfinished, dpi=150), force)


def measure_and_report(
    options: argparse.Namespace,
    names: Sequence[str],
    measure: Callable[[Callable[[str], None]], Any],
    report_of: Callable[[Any], Report],
) -> None:
    """Checks where results go, measures, and gives the report.

    Args:
        names: files that ``--out`` gets.
        measure: gives the results; its argument shows what is being measured.
    """
    check_results(options, names)
    with tqdm(unit="", leave=False, disable=None, bar_format="{desc}") as bar:
        results = measure(bar.set_description_str)
    give_report(options, report_of(results))


def give_report(options: argparse.Namespace, report: Report) -> None:
    """Prints the results first, so that they are not lost with a picture that can't be drawn. Then writes the files."""
    write_line(json.dumps(report.values, indent=2) if options.json else report.as_text())
    if options.out is not None:
        options.out.mkdir(parents=True, exist_ok=True)
        texts = {".json": json.dumps(report.values, indent=2) + "\n", ".md": report.as_text("github") + "\n"}
        for path in (options.out / name for name in report.names):
            if path.suffix in texts:
                write_whole(
                    path,
                    lambda unfinished, path=path: unfinished.write_text(texts[path.suffix], "utf-8"),
                    options.force,
                )
            else:
                report.draw(path, options.force)
    if options.plot is not None:
        report.draw(options.plot, options.force)
