"""Curves of several trainings, from what fairseq-train printed with --log-format json.

    python scripts/plot_training.py --out curves.png [--value loss] full=full.log half=half.log ...

Also prints, for every curve, its last value and how far it is from the first curve at most.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure


def main() -> None:
    parser = argparse.ArgumentParser(description="curves of several trainings as one picture")
    parser.add_argument("curves", nargs="+", metavar="NAME=LOG")
    parser.add_argument("--value", default="loss", help="of the log, as loss, accuracy or valid_loss (default: loss)")
    parser.add_argument("--label", help="of the axis (default: the value's name)")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE")
    options = parser.parse_args()
    figure = Figure(figsize=(7, 4.5))
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    curves = {}
    for curve in options.curves:
        name, _, path = curve.partition("=")
        curves[name] = read(Path(path), options.value)
    first = next(iter(curves.values()))
    for name, values in curves.items():
        style = "-" if values is first else "--"
        axes.plot(list(values), list(values.values()), style, label=name)
        common = [update for update in values if update in first]
        furthest = max(abs(values[update] - first[update]) for update in common)
        last = list(values.items())[-1]
        sys.stdout.write(
            f"{name}: {options.value} {last[1]:g} at update {last[0]}; at most {furthest:.3g} from the first\n"
        )
    axes.set_xlabel("updates")
    axes.set_ylabel(options.label or options.value)
    axes.legend(frameon=False)
    figure.tight_layout()
    figure.savefig(options.out, dpi=100)


def read(path: Path, value: str) -> dict[int, float]:
    """By number of updates; what a resumed training repeats counts once."""
    updates = "valid_num_updates" if value.startswith("valid_") else "num_updates"
    values = {}
    for found in re.findall(r"\{.*\}", path.read_text("utf-8")):
        try:
            logged = json.loads(found)
        except json.JSONDecodeError:
            continue
        if value in logged and updates in logged:
            values[int(logged[updates])] = float(logged[value])
    if not values:
        sys.exit(f"{path} has no {value}; it must be the output of fairseq-train --log-format json")
    return dict(sorted(values.items()))


if __name__ == "__main__":
    main()
