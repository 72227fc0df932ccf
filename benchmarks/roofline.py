"""Computes what a decoder step costs with each way of cross-attention: its work, and its time by data sheets.

    python benchmarks/roofline.py [--batch 32] [--beam 4] [--src-len 1024] [--past 70] [--dtype fp16] ...

Makes the tables of "What could cards reach?" in docs/benchmarks.md; nothing is measured. The defaults are
BART-large's decoder. All formulas are those of fairseq_el/planning: operations.py and cross_attention_cost.py. A time
is the sum over operations of the larger of FLOPs at the card's peak and bytes at its bandwidth. No program that runs
these operations one after the other is faster, and none reaches it.
"""

from __future__ import annotations

import argparse
import sys

from common import Arguments, add_numbers, make_parser, run_benchmark

from fairseq_el.cli.options import not_negative
from fairseq_el.cli.streams import write_line
from fairseq_el.dtypes import DTYPES
from fairseq_el.planning import (
    CrossAttentionShape,
    ModelShape,
    Rates,
    cross_attention_operations,
    decoder_step_operations,
)
from fairseq_el.planning.cross_attention_cost import operations_seconds
from fairseq_el.planning.operations import flops, traffic
from fairseq_el.planning.rates import DATA_SHEETS
from fairseq_el.units import format_size

KINDS = {
    "stock": "stock, cache per beam",
    "stock-shared": "stock, shared by beams",
    "el": "`el`",
    "shared-kv": "`shared-kv`",
}


def compute(options: argparse.Namespace) -> None:
    shape = ModelShape(
        encoder_layers=options.layers,
        decoder_layers=options.layers,
        encoder_dim=options.width,
        decoder_dim=options.width,
        encoder_ffn_dim=options.ffn_width,
        decoder_ffn_dim=options.ffn_width,
        encoder_heads=options.heads,
        decoder_heads=options.heads,
        vocab_size=options.vocab_size,
        parameters=0,
    )
    sizes = (options.batch, options.beam, options.src_len)
    cross = {
        name: cross_attention_operations(name, CrossAttentionShape.of(shape), *sizes, DTYPES[options.dtype].num_bytes)
        for name in KINDS
    }
    whole = {
        name: decoder_step_operations(name, shape, *sizes, options.past, DTYPES[options.dtype].num_bytes)
        for name in KINDS
    }
    write_line(f"### Computed from data sheets, not measured: {describe(options)}\n")
    write_line(table_of_work(cross, whole, options.layers) + "\n")
    write_line(table_of_times(cross, whole, options.layers, options.dtype))


def main(arguments: Arguments = None) -> int:
    """Args: ``arguments``: of the command line (default: those of this process)."""
    parser = make_parser("roofline.py", __doc__)
    add_numbers(
        parser,
        [
            ("batch", 32, "sentences"),
            ("beam", 4, "beams of each"),
            ("src-len", 1024, "tokens of every source"),
            ("layers", 12, "of the decoder"),
            ("heads", 16, "of an attention"),
            ("width", 1024, "of encoder and decoder"),
            ("ffn-width", 4096, "of the feed-forward network"),
            ("vocab-size", 50264, "words"),
        ],
    )
    parser.add_argument("--past", type=not_negative, default=70, metavar="N", help="words written (default: 70)")
    parser.add_argument("--dtype", choices=["fp16", "fp32"], default="fp16", help="of weights and activations")
    return run_benchmark(parser, compute, arguments)


def describe(options: argparse.Namespace) -> str:
    model = f"{options.layers} decoder layers, {options.heads} heads, width {options.width:,}"
    batch = f"{options.dtype}, batch {options.batch}, beam {options.beam}, sources of {options.src_len:,} tokens"
    return f"{model}, {options.vocab_size:,} words; {batch}, {options.past} words written"


def table_of_work(cross, whole, layers) -> str:
    """FLOPs, bytes and their ratio of a step, and what is done once per batch and kept."""
    headers = ["", "cross-attention of a layer: GFLOP", "GB", "FLOP/byte", "of all layers: GFLOP", "GB"]
    headers += ["the whole step: GFLOP", "GB", "FLOP/byte", "once per batch: TFLOP", "cross-attention keeps"]
    rows = []
    for name, title in KINDS.items():
        step, all_of_it = cross[name].step, whole[name]
        cells = [title, giga(flops(step)), giga(traffic(step)), ratio(step)]
        cells += [giga(layers * flops(step)), giga(layers * traffic(step))]
        cells += [giga(flops(all_of_it)), giga(traffic(all_of_it)), ratio(all_of_it)]
        cells += [f"{layers * flops(cross[name].once) / 1e12:.2f}", format_size(cross[name].state_bytes)]
        rows.append(cells)
    return markdown(headers, rows)


def table_of_times(cross, whole, layers, dtype) -> str:
    """Milliseconds on every card: cross-attention of a step, the whole step, and what is done once per batch."""
    headers = ["ms"]
    for card in DATA_SHEETS.values():
        headers += [f"{card.name}: cross-attention of a step", "the whole step", "once per batch"]
    rows = []
    for name, title in KINDS.items():
        cells = [title]
        for card in DATA_SHEETS.values():
            peak, bandwidth = card.flops[dtype], card.bandwidth
            rates = Rates(dense=peak, shared=peak, bandwidth=bandwidth, stream=bandwidth, launch=0.0)
            parts = (cross[name].step * layers, whole[name], cross[name].once * layers)
            cells += [f"{1e3 * operations_seconds(part, rates):.2f}" for part in parts]
        rows.append(cells)
    return markdown(headers, rows)


def giga(number: float) -> str:
    value = number / 1e9
    return f"{value:,.{2 if value < 10 else 1 if value < 100 else 0}f}"


def ratio(operations) -> str:
    return f"{flops(operations) / traffic(operations):.1f}"


def markdown(headers, rows) -> str:
    lines = [headers, ["---", *["---:"] * (len(headers) - 1)], *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


if __name__ == "__main__":
    sys.exit(main())
