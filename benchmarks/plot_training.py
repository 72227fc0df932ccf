"""Draws the curves of several trainings, from what fairseq-train printed with --log-format json.

    python benchmarks/plot_training.py --out curves.png [--value loss] full=full.log half=half.log ...

Makes the pictures of "Does it train the same on real text?" in docs/slim.md. Also prints, for every curve, its last
value and how far it is from the first curve at most.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path

from common import Arguments, make_parser, run_benchmark

from fairseq_el.cli.options import check_plot
from fairseq_el.cli.streams import write_line
from fairseq_el.errors import OptionError
from fairseq_el.files import write_whole


def plot(options: argparse.Namespace) -> None:
    check_plot(options.out, options.force, [path for _, path in options.curves], "--out")
    if len(dict(options.curves)) < len(options.curves):
        names = ", ".join(name for name, _ in options.curves)
        raise OptionError(f"every curve must have a name of its own; got {names}")
    curves = {name: read(path, options.value) for name, path in options.curves}
    for name, values in curves.items():
        write_line(f"{name}: {options.value} {describe(values, next(iter(curves.values())))}")
    draw(curves, options.label or options.value, options.out, options.force)


def main(arguments: Arguments = None) -> int:
    """Args: ``arguments``: of the command line (default: those of this process)."""
    parser = make_parser("plot_training.py", __doc__)
    parser.add_argument("curves", nargs="+", type=curve, metavar="NAME=LOG")
    parser.add_argument("--value", default="loss", help="of the log, as loss, accuracy or valid_loss (default: loss)")
    parser.add_argument("--label", help="of the axis (default: the value's name)")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="a .png, .pdf or .svg")
    parser.add_argument("--force", action="store_true", help="let --out overwrite")
    return run_benchmark(parser, plot, arguments)


def curve(text: str) -> tuple[str, Path]:
    name, found, path = text.partition("=")
    if not found or not name or not path:
        raise argparse.ArgumentTypeError(f"must be NAME=LOG; got {text!r}")
    return name, Path(path)


def describe(values: dict[int, float], first: dict[int, float]) -> str:
    update, last = list(values.items())[-1]
    gaps = [abs(values[update] - first[update]) for update in values if update in first]
    furthest = f"at most {max(gaps):.3g} from the first" if gaps else "no update in common with the first"
    return f"{last:g} at update {update}; {furthest}"


def draw(curves: dict[str, dict[int, float]], label: str, path: Path, force: bool) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5))
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for number, (name, values) in enumerate(curves.items()):
        axes.plot(list(values), list(values.values()), "--" if number else "-", label=name)
    axes.set_xlabel("updates")
    axes.set_ylabel(label)
    axes.legend(frameon=False)
    figure.tight_layout()
    write_whole(path, lambda unfinished: figure.savefig(unfinished, dpi=100), force)


def read(path: Path, value: str) -> dict[int, float]:
    """Values by the number of updates. Updates that a resumed training repeats count once."""
    updates = "valid_num_updates" if value.startswith("valid_") else "num_updates"
    values = {}
    if not path.is_file():
        raise OptionError(f"LOG must be what fairseq-train has printed; there is no file {path}")
    for found in re.findall(r"\{.*\}", path.read_text("utf-8")):
        try:
            logged = json.loads(found)
        except json.JSONDecodeError:
            continue
        if value in logged and updates in logged:
            values[int(logged[updates])] = float(logged[value])
    if not values:
        raise OptionError(f"{path} has no {value}; it must be the output of fairseq-train --log-format json")
    return dict(sorted(values.items()))


if __name__ == "__main__":
    sys.exit(main())
