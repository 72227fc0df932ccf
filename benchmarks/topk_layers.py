"""Memory and time of top-k attention and feed-forward layers, beside exact ones: ``--help`` says how."""

from __future__ import annotations

import argparse
import sys
from typing import Any, List, Optional, Sequence, Tuple

import torch
from exact_and_topk_layers import AttentionLayers, FeedForwardLayers, parse_methods
from measuring_options import (
    add_measuring,
    add_results,
    check_measuring,
    check_results,
    give_results,
    make_parser,
    run_benchmark,
)
from topk_measuring import DIRECTIONS, Layers, TopkSettings, measure_topk_layers
from topk_report import NAMES, TopkReport
from tqdm import tqdm

from fairseq_el.cli.options import positive, size_of_memory
from fairseq_el.dtypes import DTYPES, supported_dtype
from fairseq_el.errors import OptionError
from fairseq_el.planning import free_memory

_DESCRIPTION = """\
Computes layers on random numbers, exactly and with the k largest scores of every query, counts the bytes of live
tensors, and times them in turn. First, outputs and gradients are compared with simple twins: in float64 they must be
equal; if one is not, no times are reported and the exit status is 1.

methods: vanilla (all scores at once), chunked (exact, the scores of a chunk of queries at a time, computed again for
the gradients), sdpa (torch's scaled_dot_product_attention) and topk; chunked:256 has a chunk, topk:64 a k of its own"""

_EXAMPLE = """\
examples: attention against length; one feed-forward layer against its hidden units, bytes only:

  python benchmarks/topk_layers.py --lengths 1024,2048,4096 --layers 1,12 --plot topk.png
  python benchmarks/topk_layers.py --feed-forward --tokens 262144 --hidden 3072,6144 --runs 0"""


def _parser() -> argparse.ArgumentParser:
    parser = make_parser("topk_layers.py", _DESCRIPTION, _EXAMPLE)
    _add_layers(parser)
    parser.add_argument("--methods", metavar="LIST", help="with commas (default: all)")
    parser.add_argument("--baseline", metavar="METHOD", help="which the others are compared with (default: chunked)")
    parser.add_argument("--directions", type=_directions, default=DIRECTIONS, metavar="LIST", help="forward, both")
    parser.add_argument("--dtype", choices=list(DTYPES), default="fp32", help="(default: %(default)s)")
    add_measuring(parser, runs=5)
    parser.add_argument(
        "--memory",
        type=size_of_memory,
        metavar="SIZE",
        help="leave out what needs more (default: half of what is free)",
    )
    add_results(parser, NAMES)
    return parser


def _add_layers(parser: Any) -> None:
    parser.add_argument("--layers", type=_numbers, default=(1,), metavar="L[,L...]", help="how many (default: 1)")
    parser.add_argument("--k", type=positive, metavar="K", help="(default: 128; of a feed-forward layer 512)")
    parser.add_argument(
        "--chunk",
        type=positive,
        metavar="C",
        help="queries (default: 1024; topk takes 256 at most) or tokens (16384) at a time",
    )
    attention = parser.add_argument_group("attention")
    attention.add_argument(
        "--lengths", type=_numbers, default=(1024, 2048, 4096), metavar="N[,N...]", help="queries and keys"
    )
    attention.add_argument("--batch", type=positive, default=1, metavar="B", help="(default: %(default)s)")
    attention.add_argument("--heads", type=positive, default=12, metavar="H", help="(default: %(default)s)")
    attention.add_argument("--head-dim", type=positive, default=64, metavar="D", help="(default: %(default)s)")
    attention.add_argument("--no-causal", action="store_true", help="every query sees all keys")
    feed_forward = parser.add_argument_group("feed-forward layers")
    feed_forward.add_argument("--feed-forward", action="store_true", help="instead of attention")
    feed_forward.add_argument("--tokens", type=_numbers, default=(4096,), metavar="N[,N...]", help="(default: 4096)")
    feed_forward.add_argument("--hidden", type=_numbers, default=(3072,), metavar="F[,F...]", help="(default: 3072)")
    feed_forward.add_argument("--width", type=positive, default=768, metavar="D", help="(default: %(default)s)")


def _measure(options: argparse.Namespace) -> None:
    settings = _settings(options)
    check_results(options, NAMES)
    with tqdm(unit="", leave=False, disable=None, bar_format="{desc}") as bar:
        report = TopkReport(settings, measure_topk_layers(settings, bar.set_description_str))
    give_results(options, report)


def main(arguments: Optional[Sequence[str]] = None) -> int:
    """Args: ``arguments``: of the command line (default: those of this process)."""
    return run_benchmark(_parser(), _measure, arguments)


def _settings(options: argparse.Namespace) -> TopkSettings:
    layers = _feed_forward(options) if options.feed_forward else _attention(options)
    methods = parse_methods(options.methods or layers[0].default_methods, layers[0])
    default = next((method for method in methods if method.kind == "chunked"), methods[0])
    baseline = next((m for m in methods if m.label == options.baseline), None) if options.baseline else default
    if baseline is None:
        labels = ", ".join(method.label for method in methods)
        raise OptionError(f"--baseline must be one of the methods, {labels}; got {options.baseline}")
    check_measuring(options)
    dtype, why = supported_dtype(options.dtype, options.device)
    if dtype == "fp32" != options.dtype:
        raise OptionError(f"--dtype {options.dtype} can't be used: {why}")
    return TopkSettings(
        layers=layers,
        methods=methods,
        baseline=baseline,
        directions=options.directions,
        runs=options.runs,
        memory=options.memory or free_memory(options.device) // 2,
        dtype=options.dtype,
        device=options.device,
        threads=options.threads or torch.get_num_threads(),
        command=options.command_line,
    )


def _attention(options: argparse.Namespace) -> List[Layers]:
    if min(options.lengths) < 2:
        raise OptionError("--lengths must be at least 2: one position attends to itself, whatever the method; got 1")
    return [
        AttentionLayers(
            length=length,
            layers=layers,
            batch=options.batch,
            heads=options.heads,
            head_dim=options.head_dim,
            k=options.k or 128,
            chunk=options.chunk or 1024,
            causal=not options.no_causal,
        )
        for layers in options.layers
        for length in options.lengths
    ]


def _feed_forward(options: argparse.Namespace) -> List[Layers]:
    return [
        FeedForwardLayers(
            tokens=tokens,
            hidden=hidden,
            layers=layers,
            width=options.width,
            k=options.k or 512,
            chunk=options.chunk or 16384,
        )
        for layers in options.layers
        for hidden in options.hidden
        for tokens in options.tokens
    ]


def _numbers(text: str) -> Tuple[int, ...]:
    return tuple(dict.fromkeys(positive(part) for part in text.split(",")))


def _directions(text: str) -> Tuple[str, ...]:
    names = tuple(dict.fromkeys(text.split(",")))
    if not set(names) <= set(DIRECTIONS):
        raise argparse.ArgumentTypeError(f"must name directions out of {', '.join(DIRECTIONS)}; got {text!r}")
    return names


if __name__ == "__main__":
    sys.exit(main())
