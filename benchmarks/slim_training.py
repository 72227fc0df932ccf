"""Memory and time of training a SLiM Performer, against slice and sequence length: ``--help`` says how."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Optional, Sequence, Tuple

import torch
from measuring_options import (
    add_measuring,
    add_results,
    check_measuring,
    check_results,
    give_results,
    make_parser,
    run_benchmark,
)
from slim_measuring import SlimSettings, measure_slim_training
from slim_report import NAMES, SlimReport
from tqdm import tqdm

from fairseq_el.cli.options import layers, not_negative, positive
from fairseq_el.errors import OptionError
from fairseq_el.ops import FEATURE_MAPS
from fairseq_el.slim.model import CONFIGURATIONS

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
    parser.add_argument("--lengths", type=_numbers, metavar="L[,L...]", help="(default: the configuration's)")
    parser.add_argument(
        "--slices",
        type=_numbers,
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
    check_results(options, NAMES)
    with tqdm(unit="", leave=False, disable=None, bar_format="{desc}") as bar:
        report = SlimReport(settings, measure_slim_training(settings, bar.set_description_str))
    give_results(options, report)


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


def _numbers(text: str) -> Tuple[int, ...]:
    return tuple(dict.fromkeys(not_negative(part) for part in text.split(",")))


if __name__ == "__main__":
    sys.exit(main())
