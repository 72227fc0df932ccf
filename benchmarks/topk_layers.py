"""Measures whether Top-k saves memory and time: live bytes and seconds of top-k layers, beside exact ones.

Makes the tables of "What does Top-k attention save?" in docs/benchmarks.md. ``--help`` says how.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict
from functools import partial
from typing import Any, Dict, List, Optional, Sequence, Tuple

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
    probability,
    run_benchmark,
)
from exact_and_topk_layers import AttentionLayers, BlockLayers, FeedForwardLayers, parse_methods
from topk_measuring import DIRECTIONS, Layers, TopkResult, TopkSettings, measure_topk_layers

from fairseq_el.cli.options import positive, size_of_memory
from fairseq_el.dtypes import DTYPES, supported_dtype
from fairseq_el.errors import OptionError
from fairseq_el.measure import growth_exponent
from fairseq_el.ops import MOST_QUERIES
from fairseq_el.planning import free_memory
from fairseq_el.units import format_seconds, format_size

_KINDS = ("feed_forward", "projections", "block")
NAMES = ("topk.json", "topk.md", "topk.png")
_MEASURED = {"peak_bytes": ("live bytes at the peak, GiB", 1 << 30), "seconds_median": ("seconds", 1)}

_DESCRIPTION = """\
Computes layers on random numbers, exactly and with the k largest scores of every query, counts the bytes of live
tensors, and times them in turn. First, outputs and gradients are compared with simple twins: in float64 they must be
equal; if one is not, no times are reported and the exit status is 1.

methods: vanilla (all scores at once), chunked (exact, the scores of a chunk of queries at a time, computed again for
the gradients), sdpa (torch's scaled_dot_product_attention) and topk; chunked:256 has a chunk, topk:64 a k of its own.
With --projections and --block also authors: top-k of attention as its authors' paper describes it"""

_EXAMPLE = """\
examples: attention against length; one feed-forward layer against its hidden units, bytes only; 12 whole blocks;
attention with projections and dropout, beside the authors' way:

  python benchmarks/topk_layers.py --lengths 1024,2048,4096 --layers 1,12 --plot topk.png
  python benchmarks/topk_layers.py --feed-forward --tokens 262144 --hidden 3072,6144 --runs 0
  python benchmarks/topk_layers.py --block --layers 12 --lengths 2048
  python benchmarks/topk_layers.py --projections --dropout 0.1 --methods topk,authors --lengths 2048,10240 --runs 0"""


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
    parser.add_argument("--layers", type=numbers, default=(1,), metavar="L[,L...]", help="how many (default: 1)")
    parser.add_argument("--k", type=positive, metavar="K", help="(default: 128; of a feed-forward layer 512)")
    parser.add_argument(
        "--chunk",
        type=positive,
        metavar="C",
        help="queries (default: 1024; topk takes 256 at most) or tokens (16384) at a time",
    )
    attention = parser.add_argument_group("attention")
    attention.add_argument(
        "--lengths", type=numbers, default=(1024, 2048, 4096), metavar="N[,N...]", help="queries and keys"
    )
    attention.add_argument("--batch", type=positive, default=1, metavar="B", help="(default: %(default)s)")
    attention.add_argument("--heads", type=positive, default=12, metavar="H", help="(default: %(default)s)")
    attention.add_argument("--head-dim", type=positive, default=64, metavar="D", help="(default: %(default)s)")
    attention.add_argument("--no-causal", action="store_true", help="every query sees all keys")
    attention.add_argument("--projections", action="store_true", help="with the four projections, of batch 1")
    attention.add_argument("--block", action="store_true", help="the same, each with a feed-forward layer")
    attention.add_argument(
        "--dropout",
        type=probability,
        default=0.0,
        metavar="P",
        help="of weights and branches of these two (default: 0)",
    )
    attention.add_argument(
        "--hidden-k", type=positive, default=512, metavar="K", help="of feed-forward layers of --block (default: 512)"
    )
    feed_forward = parser.add_argument_group("feed-forward layers")
    feed_forward.add_argument("--feed-forward", action="store_true", help="instead of attention")
    feed_forward.add_argument("--tokens", type=numbers, default=(4096,), metavar="N[,N...]", help="(default: 4096)")
    feed_forward.add_argument("--hidden", type=numbers, default=(3072,), metavar="F[,F...]", help="(default: 3072)")
    feed_forward.add_argument("--width", type=positive, default=768, metavar="D", help="(default: %(default)s)")


def _measure(options: argparse.Namespace) -> None:
    settings = _settings(options)
    measure_and_report(options, NAMES, lambda show: measure_topk_layers(settings, show), partial(report_of, settings))


def main(arguments: Optional[Sequence[str]] = None) -> int:
    """Args: ``arguments``: of the command line (default: those of this process)."""
    return run_benchmark(_parser(), _measure, arguments)


def _settings(options: argparse.Namespace) -> TopkSettings:
    _check_kinds(options)
    whole = options.projections or options.block
    kind = _feed_forward if options.feed_forward else _blocks if whole else _attention
    layers = kind(options)
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


def _check_kinds(options: argparse.Namespace) -> None:
    kinds = [f"--{name.replace('_', '-')}" for name in _KINDS if getattr(options, name)]
    if len(kinds) > 1:
        raise OptionError(f"{' and '.join(kinds)} are different layers; give one of them")
    if not options.feed_forward and min(options.lengths) < 2:
        raise OptionError("--lengths must be at least 2: one position attends to itself, whatever the method; got 1")
    if options.dropout and not (options.projections or options.block):
        raise OptionError(f"--dropout is for --projections and --block; got {options.dropout} without them")
    if options.batch > 1 and (options.projections or options.block):
        raise OptionError(f"--batch must be 1 with --projections and --block; got {options.batch}")


def _blocks(options: argparse.Namespace) -> List[Layers]:
    return [
        BlockLayers(
            length=length,
            layers=layers,
            hidden=hidden,
            heads=options.heads,
            head_dim=options.head_dim,
            k=options.k or 128,
            hidden_k=options.hidden_k,
            chunk=options.chunk or 1024,
            causal=not options.no_causal,
            dropout=options.dropout,
        )
        for layers in options.layers
        for hidden in (options.hidden if options.block else (0,))
        for length in options.lengths
    ]


def _attention(options: argparse.Namespace) -> List[Layers]:
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


def _directions(text: str) -> Tuple[str, ...]:
    names = tuple(dict.fromkeys(text.split(",")))
    if not set(names) <= set(DIRECTIONS):
        raise argparse.ArgumentTypeError(f"must name directions out of {', '.join(DIRECTIONS)}; got {text!r}")
    return names


def report_of(settings: TopkSettings, results: Sequence[TopkResult]) -> Report:
    """Growth of bytes is fitted, and the picture is drawn, along the size that has most values."""
    along = max(results[0].sizes, key=lambda name: len({result.sizes[name] for result in results}))
    lines = _lines(results, along)
    growth = {
        name: _exponent([(result.sizes[along], result.peak_bytes) for result in line]) for name, line in lines.items()
    }
    labels = {"methods": [m.label for m in settings.methods], "baseline": settings.baseline.label}
    values = {
        "settings": {**asdict(settings), **labels},
        "torch": torch.__version__,
        "device": _where(settings),
        "results": [_record(result) for result in results],
        "growth_of_bytes": growth,
    }
    panels = [[_panel(lines, direction, along, key) for key in _MEASURED] for direction in settings.directions]
    rows = [_row(result, _peak_of_baseline(settings, results, result)) for result in results]
    return Report(NAMES, values, rows, _notes(settings, growth, along), panels)


def _lines(results: Sequence[TopkResult], along: str) -> Dict[str, List[TopkResult]]:
    """Results that differ in the size ``along`` only, by everything else."""
    lines: Dict[str, List[TopkResult]] = {}
    for result in results:
        others = [f"{name} {size:,}" for name, size in result.sizes.items() if name != along]
        lines.setdefault(", ".join([result.method.label, result.direction, *others]), []).append(result)
    return lines


def _panel(lines: Dict[str, List[TopkResult]], direction: str, along: str, key: str) -> Panel:
    title, unit = _MEASURED[key]
    curves = {}
    for name, line in lines.items():
        points = [(result.sizes[along], _record(result)[key]) for result in line if result.direction == direction]
        curves[name.replace(f", {direction}", "")] = [(x, y and y / unit) for x, y in points]
    return Panel(f"{direction}: {title}", along, curves)


def _exponent(points: Sequence[Tuple[int, Optional[int]]]) -> Optional[float]:
    counted = [(size, peak) for size, peak in points if peak]
    return growth_exponent(*zip(*counted)) if counted else None


def _record(result: TopkResult) -> Dict[str, Any]:
    record = {**asdict(result), **result.sizes, "method": result.method.label, "seconds": list(result.seconds)}
    del record["sizes"]
    return {**record, "seconds_median": result.median}


def _peak_of_baseline(settings: TopkSettings, results: Sequence[TopkResult], result: TopkResult) -> Optional[int]:
    same = [r for r in results if (r.sizes, r.direction) == (result.sizes, result.direction)]
    return next((r.peak_bytes for r in same if r.method == settings.baseline), None)


def _row(result: TopkResult, of_baseline: Optional[int]) -> Dict[str, str]:
    faster = result.faster
    spread = "-" if faster is None else f"{faster.median:.2f} ({faster.minimum:.2f} to {faster.maximum:.2f})"
    return {
        **{name: f"{size:,}" for name, size in result.sizes.items()},
        "direction": result.direction,
        "method": result.method.label,
        "live bytes": _bytes(result),
        "of the baseline": f"{result.peak_bytes / of_baseline:.3f}" if result.peak_bytes and of_baseline else "-",
        "time": "-" if result.median is None else format_seconds(result.median),
        "times as fast (min to max)": spread,
    }


def _bytes(result: TopkResult) -> str:
    if result.peak_bytes is not None:
        return format_size(result.peak_bytes)
    return "-" if result.expected_bytes is None else f"({format_size(result.expected_bytes)})"


def _notes(s: TopkSettings, growth: Dict[str, Optional[float]], along: str) -> List[str]:
    notes = [
        f"{_described(s.layers[0])} {s.dtype}, {_where(s)}, torch {torch.__version__}.",
        "Live bytes: of all tensors at the peak, counted: given inputs, weights and gradient of the output, and all "
        "that is computed. Memory that an operator uses inside is not counted. In brackets: about what a method that "
        "was left out (--memory) would need.",
        "forward: without gradients. both: forward and backward; chunked computes every chunk again for it.",
    ]
    if s.runs:
        notes.append(
            f"Time: median of {s.runs} rounds in which all take turns, after one in which bytes were "
            f"counted. Times as fast: as {s.baseline.label}, in every round; the median of these."
        )
    known = [f"{name} {exponent:.2f}" for name, exponent in growth.items() if exponent is not None]
    if known:
        notes.append(f"Fitted growth of live bytes with {along}, as an exponent: {'; '.join(known)}.")
    return [*notes, f"command: {s.command}"]


def _described(layers: Layers) -> str:
    if isinstance(layers, FeedForwardLayers):
        return f"Feed-forward layer with ReLU: width {layers.width}, k {layers.k}, {layers.chunk} tokens at a time."
    if isinstance(layers, BlockLayers):
        feed_forward = f"feed-forward layers with ReLU, k {layers.hidden_k}, " if layers.hidden else ""
        return (
            f"Attention with projections, {feed_forward}residual branches and norms: {layers.heads} heads of "
            f"{layers.head_dim}, {'causal' if layers.causal else 'not causal'}, k {layers.k}, dropout "
            f"{layers.dropout:g}, {layers.chunk} queries at a time, of topk {min(layers.chunk, MOST_QUERIES)}."
        )
    return (
        f"Attention over given queries, keys and values: batch {layers.batch}, {layers.heads} heads of "
        f"{layers.head_dim}, {'causal' if layers.causal else 'not causal'}, k {layers.k}, {layers.chunk} queries at a "
        f"time, of topk {min(layers.chunk, MOST_QUERIES)}; further layers get theirs by three linear maps."
    )


def _where(settings: TopkSettings) -> str:
    return torch.cuda.get_device_name() if settings.device == "cuda" else f"cpu, {settings.threads} threads"


if __name__ == "__main__":
    sys.exit(main())
