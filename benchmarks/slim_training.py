"""Measures how much memory training a SLiM Performer in slices saves, and how much time it costs.

Makes the tables of "Is it better than the authors' program?", "What do slices save?" and "Does memory depend on the
length?" in docs/slim.md. ``--help`` says how.
"""

from __future__ import annotations

import argparse
import platform
import sys
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Dict, List, Optional, Sequence, Tuple

import torch
from common import (
    Panel,
    Report,
    add_measuring,
    add_results,
    check_measuring,
    make_parser,
    measure_and_report,
    numbers,
    run_benchmark,
)
from slim_measuring import OURS, SlimResult, SlimSettings, measure_slim_training

from fairseq_el.cli.options import layers, not_negative, positive
from fairseq_el.errors import OptionError
from fairseq_el.ops import FEATURE_MAPS
from fairseq_el.slim.language_model import CONFIGURATIONS
from fairseq_el.units import format_seconds, format_size

NAMES = ("slim.json", "slim.md")
_MEASURED = {"peak_bytes": ("activations at the peak, MiB", 1 << 20), "seconds_median": ("seconds", 1)}

_DESCRIPTION = """\
Computes the gradient of one random sequence, whole (C = 0) and in slices of C, counts the bytes of live tensors, times
it in rounds, and compares gradients: if they differ, no times are reported and the exit status is 1."""

_EXAMPLE = """\
examples: configuration II of the paper; memory that does not grow with the sequence:

  python benchmarks/slim_training.py --configuration 2 --slices 0,512,342,128,32
  python benchmarks/slim_training.py --configuration 2 --lengths 1024,4096,16384,65536 --slices 256 --runs 0"""


def _parser() -> argparse.ArgumentParser:
    parser = make_parser("slim_training.py", _DESCRIPTION, _EXAMPLE)
    parser.add_argument("--configuration", type=int, choices=[1, 2, 3, 4], default=2, help="the paper's I to IV")
    parser.add_argument("--layers", type=layers, metavar="N", help="(default: the configuration's)")
    parser.add_argument("--width", type=positive, metavar="d", help="(default: the configuration's)")
    parser.add_argument("--feature-map", choices=FEATURE_MAPS, default="sqr", help="(default: %(default)s)")
    parser.add_argument("--lengths", type=_lengths, metavar="L[,L...]", help="(default: the configuration's)")
    parser.add_argument(
        "--slices",
        type=_lengths,
        metavar="C[,C...]",
        help="0 for the whole sequence; those above L are left out (default: 0,L/2,L/3,L/4,L/8,L/16)",
    )
    add_measuring(parser, runs=3)
    parser.add_argument("--authors", type=Path, metavar="DIR", help="a checkout of google-research, measured beside")
    parser.add_argument(
        "--authors-compute", choices=["iter", "ps", "parallel_ps"], default="iter", help="(default: %(default)s)"
    )
    add_results(parser, NAMES)
    return parser


def _measure(options: argparse.Namespace) -> None:
    settings = _settings(options)
    measure_and_report(options, NAMES, lambda show: measure_slim_training(settings, show), partial(report_of, settings))


def main(arguments: Optional[Sequence[str]] = None) -> int:
    """Args: ``arguments``: of the command line (default: those of this process)."""
    return run_benchmark(_parser(), _measure, arguments)


def _settings(options: argparse.Namespace) -> SlimSettings:
    length, num_layers, width = CONFIGURATIONS[f"slim_performer_lm_{options.configuration}"]
    width = options.width or width
    lengths = options.lengths or (length,)
    longest = max(lengths)
    if width % 4 != 0 or width % max(width // 64, 1) != 0:
        raise OptionError(f"--width must be a multiple of 4, and of its d/64 heads; it is {width}")
    if min(lengths) < 2:
        raise OptionError(f"--lengths must be at least 2; got {min(lengths)}")
    check_measuring(options)
    if options.authors is not None and options.feature_map == "favor+":
        raise OptionError("--authors draws other random features for every pass; compare another --feature-map")
    return SlimSettings(
        layers=options.layers or num_layers,
        width=width,
        ffn=4 * width,
        heads=max(width // 64, 1),
        feature_map=options.feature_map,
        lengths=lengths,
        slices=options.slices or (0, *dict.fromkeys(-(-longest // part) for part in (2, 3, 4, 8, 16))),
        runs=options.runs,
        device=options.device,
        threads=options.threads or torch.get_num_threads(),
        authors=options.authors,
        authors_compute=options.authors_compute,
        command=options.command_line,
    )


def _lengths(text: str) -> Tuple[int, ...]:
    return numbers(text, not_negative)


def report_of(settings: SlimSettings, results: Sequence[SlimResult]) -> Report:
    """The picture is drawn against C, or against L where there are more of these."""
    values = {
        "settings": {**asdict(settings), "authors": str(settings.authors) if settings.authors else None},
        "torch": torch.__version__,
        "machine": platform.machine(),
        "results": [result.as_dict() for result in results],
    }
    firsts = {result.length: result for result in reversed(results)}
    rows = [_row(settings, result, firsts[result.length]) for result in results]
    return Report(NAMES, values, rows, _notes(settings), [[_panel(settings, results, key) for key in _MEASURED]])


def _row(settings: SlimSettings, result: SlimResult, first: SlimResult) -> Dict[str, str]:
    return {
        "L": str(result.length),
        "C": str(result.slice_length or "full"),
        **({} if settings.authors is None else {"program": result.program}),
        "activations": "-" if result.peak_bytes is None else format_size(result.peak_bytes),
        "of the first": _ratio(result.peak_bytes, first.peak_bytes),
        "time": "-" if result.median is None else format_seconds(result.median),
        "to the first": _ratio(result.median, first.median),
        "gap of gradient": f"{result.gap:.1e}",
    }


def _ratio(value: Optional[float], first: Optional[float]) -> str:
    return "-" if value is None or not first else f"{value / first:.3g}"


def _notes(s: SlimSettings) -> List[str]:
    where = f"{s.threads} threads" if s.device == "cpu" else torch.cuda.get_device_name()
    return [
        f"{s.layers} layers, d {s.width}, feed-forward {s.ffn}, {s.heads} heads, {s.feature_map}, fp32, one "
        f"sequence of L random bytes, forward and backward; {where}, torch {torch.__version__}.",
        "activations: bytes of live tensors at the peak, without tokens, parameters and their gradients.",
        f"time: median of {s.runs} rounds, all in turn in each. Ratios are to the first row of the same L.",
        f"gap: |g - g'| / |g'| over all parameters, g' of {OURS} with the largest C.",
        f"command: {s.command}",
    ]


def _panel(settings: SlimSettings, results: Sequence[SlimResult], key: str) -> Panel:
    by_length = len(settings.lengths) > len(settings.slices)
    title, unit = _MEASURED[key]
    curves: Dict[str, List[Tuple[float, Optional[float]]]] = {}
    for result in results:
        label = f"C {result.slice_length or 'full'}" if by_length else f"L {result.length}"
        label += "" if settings.authors is None else f", {result.program}"
        value = result.as_dict()[key]
        x = result.length if by_length else result.slice_length or result.length
        curves.setdefault(label, []).append((x, value and value / unit))
    return Panel(title, "L, bytes of a sequence" if by_length else "C, bytes of a slice", curves)


if __name__ == "__main__":
    sys.exit(main())
