"""Counts the bytes of training a whole language model with Top-k attention, beside those of one attention layer.

    python benchmarks/topk_model.py [--length N] [--layers L] [--dropout P] [--stock-mask]

Makes a table of "What does Top-k attention save?" in docs/benchmarks.md. The model is a ``topk_transformer_lm`` over
bytes with random weights. One training step on random bytes is made: forward, loss, backward. The layer is Top-k
attention over given queries, keys and values, as ``topk_layers.py`` measures it. No weight is changed.
"""

from __future__ import annotations

import argparse
import sys
from typing import Any, Dict, List

import torch
from common import Arguments, add_numbers, make_parser, probability, run_benchmark, table
from exact_and_topk_layers import AttentionLayers, LayerMethod
from random_checkpoint import configuration, random_model
from topk_measuring import DIRECTIONS, TopkSettings, measure_topk_layers
from torch import Tensor
from torch.nn import functional

import fairseq_el.plugin  # noqa: F401  registers the model and the task
from fairseq_el.cli.options import threads
from fairseq_el.cli.streams import write_line
from fairseq_el.errors import OptionError
from fairseq_el.measure import CAN_TRACK, peak_bytes, seconds_of
from fairseq_el.topk.causal_mask import FutureMask
from fairseq_el.units import format_seconds, format_size

_NUMBERS = (
    ("length", 16384, "bytes of the sample"),
    ("layers", 12, "layers"),
    ("heads", 12, "heads of every layer"),
    ("head-dim", 64, "width of a head"),
    ("hidden", 3072, "hidden units of a feed-forward layer"),
    ("k", 128, "scores of a query that are kept"),
    ("hidden-k", 512, "hidden units of a token that are kept"),
)


def parser() -> argparse.ArgumentParser:
    result = make_parser("topk_model.py", __doc__)
    add_numbers(result, _NUMBERS)
    result.add_argument(
        "--dropout", type=probability, default=0.1, metavar="P", help="everywhere in the model (default: 0.1)"
    )
    result.add_argument("--stock-mask", action="store_true", help="also with fairseq's mask of length by length")
    result.add_argument("--threads", type=threads, metavar="N", help="of torch (default: as torch has them)")
    return result


def run(options: argparse.Namespace) -> None:
    """
    Raises:
        OptionError: this torch can't count bytes, or the options make no such model.
    """
    if not CAN_TRACK:
        raise OptionError(f"torch {torch.__version__} can't count bytes (2.1 can)")
    if options.length <= options.k:
        raise OptionError(f"--length must be more than --k, {options.k}, or nothing is left out; got {options.length}")
    torch.set_num_threads(options.threads or torch.get_num_threads())
    model = model_of(options)
    tokens = torch.randint(4, 260, (1, options.length + 1), generator=torch.Generator().manual_seed(1))
    rows = [layer_row(options), model_row("model", options, model, tokens)]
    if options.stock_mask:
        if not isinstance(model.decoder.__dict__.pop("buffered_future_mask", None), FutureMask):
            raise OptionError("--stock-mask: this model makes fairseq's mask as it is; give other options")
        rows.append(model_row("model with fairseq's mask", options, model, tokens))
    of_layer = rows[0]["bytes"]
    write_line(table([as_text(row, of_layer) for row in rows]))
    write_line(f"\nForward and backward, fp32, {torch.get_num_threads()} threads, torch {torch.__version__}.")
    write_line(f"command: {options.command_line}")


def model_of(options: argparse.Namespace) -> Any:
    """A ``topk_transformer_lm`` of these sizes, while training."""
    width = options.heads * options.head_dim
    sizes = {
        "decoder-layers": options.layers,
        "decoder-attention-heads": options.heads,
        "decoder-embed-dim": width,
        "decoder-input-dim": width,
        "decoder-output-dim": width,
        "decoder-ffn-embed-dim": options.hidden,
        "topk-attention": options.k,
        "topk-ffn": options.hidden_k,
        "tokens-per-sample": options.length,
        **dict.fromkeys(("dropout", "attention-dropout", "activation-dropout"), options.dropout),
    }
    arguments = [text for name, value in sizes.items() for text in (f"--{name}", str(value))]
    task = [".", "--task", "byte_language_modeling", "--arch", "topk_transformer_lm"]
    shared = ["--share-decoder-input-output-embed"]
    return random_model(configuration([*task, *shared, *arguments])).train()


def layer_row(options: argparse.Namespace) -> Dict[str, Any]:
    """Bytes of one attention layer with queries, keys, values, output and their gradients."""
    layers = AttentionLayers(options.length, 1, heads=options.heads, head_dim=options.head_dim, k=options.k)
    method = LayerMethod("topk")
    settings = TopkSettings(
        (layers,), (method,), method, DIRECTIONS[1:], runs=0, memory=sys.maxsize, threads=torch.get_num_threads()
    )
    (result,) = measure_topk_layers(settings)
    return {"": "one attention layer", "weights": 0, "bytes": result.peak_bytes, "layers": 1, "seconds": None}


def model_row(name: str, options: argparse.Namespace, model: Any, tokens: Tensor) -> Dict[str, Any]:
    """Bytes of weights, and of everything that a training step makes, at the peak."""
    model.zero_grad(set_to_none=True)
    peaks: List[Any] = []

    def step() -> None:
        logits = model(tokens[:, :-1])[0]
        functional.cross_entropy(logits.flatten(0, 1), tokens[0, 1:]).backward()

    seconds = seconds_of(lambda: peaks.append(peak_bytes(step, "cpu")))
    weights = sum(p.numel() * p.element_size() for p in model.parameters())
    return {"": name, "weights": weights, "bytes": weights + peaks[0], "layers": options.layers, "seconds": seconds}


def as_text(row: Dict[str, Any], of_layer: int) -> Dict[str, str]:
    each = row["bytes"] / row["layers"]
    return {
        "": row[""],
        "layers": str(row["layers"]),
        "weights": format_size(row["weights"]) if row["weights"] else "-",
        "live bytes at the peak": format_size(row["bytes"]),
        "for each layer": format_size(round(each)),
        "of the attention layer": f"{each / of_layer:.2f}",
        "time, counted": format_seconds(row["seconds"]) if row["seconds"] else "-",
    }


def main(arguments: Arguments = None) -> int:
    """Args: ``arguments``: of the command line (default: those of this process)."""
    return run_benchmark(parser(), run, arguments)


if __name__ == "__main__":
    sys.exit(main())
