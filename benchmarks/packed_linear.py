"""Times linear layers with weights that are packed, or in 8 bits, against plain ones.

    python benchmarks/packed_linear.py [--shapes 256x256,256x1024,...] [--megabytes 48] [--runs 7]

Makes the tables of "When does packing a weight pay?" in docs/benchmarks.md, by which `should_pack` in
fairseq_el/policy.py decides, and a table of weights in 8 bits there. Layers of one shape are computed one after the
other. They take `--megabytes` together: as in a decoder, weights are not still in a cache of the processor. Runs take
turns; medians are printed.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from typing import Tuple

import torch
from common import Arguments, add_numbers, make_parser, run_benchmark
from tabulate import tabulate
from torch.nn import functional

from fairseq_el.cli.options import positive
from fairseq_el.cli.streams import write_line
from fairseq_el.dtypes import DTYPES
from fairseq_el.measure import seconds_of
from fairseq_el.ops import Int8Linear, PackedLinear, can_pack, why_no_int8

SHAPES = "256x256,256x1024,1024x1024,1024x4096,256x6000"
ROWS = (1, 4, 8, 16, 32, 64, 256, 1024, 4096)


def compare(rows: int, weights: list[torch.Tensor], runs: int) -> list[str]:
    """One row of the table: all layers plain, packed, and in 8 bits where there are any; and the packing itself."""
    x = torch.randn(rows, weights[0].size(1)).to(weights[0].dtype)
    packed = [PackedLinear(weight, None, rows) for weight in weights]
    error = (packed[0](x).float() - functional.linear(x, weights[0]).float()).abs().max() / x.size(1) ** 0.5
    assert error < 0.05, f"packed and plain differ by {error}"
    calls = {
        "plain": lambda: [functional.linear(x, weight) for weight in weights],
        "packed": lambda: [layer(x) for layer in packed],
        "packing": lambda: [PackedLinear(weight, None, rows) for weight in weights],
    }
    if x.dtype == torch.float32 and not why_no_int8("cpu"):
        in_int8 = [Int8Linear(weight, None) for weight in weights]
        calls["int8"] = lambda: [layer(x) for layer in in_int8]
    times: dict[str, list[float]] = {name: [] for name in calls}
    for run in range(runs + 1):
        for name, call in calls.items():
            measured = seconds_of(call) / len(weights)
            if run > 0:  # the first warms up
                times[name].append(measured)
    plain, own, packing = (statistics.median(times[name]) for name in ("plain", "packed", "packing"))
    int8 = f"{1e6 * statistics.median(times['int8']):.0f}" if "int8" in times else ""
    pays = f"{packing / (plain - own):.0f}" if own < plain else "never"
    size = f"{rows * weights[0].numel() / 1e6:,.2f}"
    return [f"{rows:,}", size, f"{1e6 * plain:.0f}", f"{1e6 * own:.0f}", f"{plain / own:.2f}", pays, int8]


def measure(args: argparse.Namespace) -> None:
    headers = ["rows", "rows x in x out, millions", "plain, us", "packed, us", "times as fast", "uses until it pays"]
    headers.append("int8, us")
    with torch.no_grad():
        for name, dtype in ((name, DTYPES[name].torch_dtype) for name in ("fp32", "bf16")):
            if not can_pack("cpu", dtype):
                write_line(f"{name}: this torch or processor packs no such weights\n")
                continue
            for width, outputs in args.shapes:
                layers = max(
                    args.megabytes * 10**6 // (width * outputs * torch.empty(0, dtype=dtype).element_size()), 1
                )
                weights = [torch.randn(outputs, width).to(dtype) for _ in range(layers)]
                table = [compare(rows, weights, args.runs) for rows in ROWS]
                write_line(f"{name}, {layers} weights {width} x {outputs}, {torch.get_num_threads()} threads")
                write_line(tabulate(table, headers, disable_numparse=True, colalign=["right"] * len(headers)) + "\n")


def _shapes(text: str) -> list[Tuple[int, int]]:
    pairs = [tuple(map(positive, shape.split("x"))) for shape in text.split(",")]
    if not all(len(pair) == 2 for pair in pairs):
        raise argparse.ArgumentTypeError(f"must be pairs of numbers, as 256x1024; got {text!r}")
    return [(pair[0], pair[1]) for pair in pairs]


def main(arguments: Arguments = None) -> int:
    """Args: ``arguments``: of the command line (default: those of this process)."""
    parser = make_parser("packed_linear.py", __doc__)
    parser.add_argument(
        "--shapes", type=_shapes, default=SHAPES, metavar="INxOUT,...", help="of weights (default: %(default)s)"
    )
    add_numbers(parser, [("megabytes", 48, "of all weights of a shape"), ("runs", 7, "rounds")])
    return run_benchmark(parser, measure, arguments)


if __name__ == "__main__":
    sys.exit(main())
