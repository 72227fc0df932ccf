"""A model that learns while it reads: one gradient step on the first half of a sequence, bits per byte on the second.

    python scripts/slim_adapt.py DATA --path checkpoint.pt [--slice-length C] [--lr LR[,LR...]] [--samples N]

Likhosherstov et al., "Sub-Linear Memory: How to Make Performers SLiM", NeurIPS 2021, section 4. For each sequence of
L bytes, from the trained weights each time, a step of plain gradient descent on the mean loss of its first L/2 bytes is
made, whole and in slices; then the second half is predicted, which sees all bytes before it either way. DATA is as for
--task byte_language_modeling.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from pathlib import Path

import torch
from fairseq import checkpoint_utils
from tabulate import tabulate
from torch import Tensor

import fairseq_el  # noqa: F401  (registers the model and the task)
from fairseq_el.bench.live_bytes import CAN_TRACK, PeakBytes
from fairseq_el.modules import SlimDecoder, slim_cross_entropy
from fairseq_el.planning import format_size


def main() -> None:
    parser = argparse.ArgumentParser(description="one gradient step on the first half of sequences, loss on the second")
    parser.add_argument("data", type=Path, metavar="DATA")
    parser.add_argument("--path", required=True, metavar="FILE", help="a slim_performer_lm that fairseq-train wrote")
    parser.add_argument("--subset", default="valid", metavar="NAME", help="(default: %(default)s)")
    parser.add_argument("--slice-length", type=int, default=0, metavar="C", help="(default: a quarter of the sequence)")
    parser.add_argument("--lr", default="0.001,0.01,0.1", metavar="LIST", help="of the step (default: %(default)s)")
    parser.add_argument("--samples", type=int, default=20, metavar="N", help="sequences (default: %(default)s)")
    parser.add_argument("--length", type=int, metavar="L", help="(default: as in training)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures there")
    options = parser.parse_args()
    overrides = {"data": str(options.data)}
    models, _, task = checkpoint_utils.load_model_ensemble_and_task([options.path], arg_overrides=overrides)
    if not isinstance(getattr(models[0], "decoder", None), SlimDecoder):
        sys.exit(f"--path must be a slim_performer_lm; {options.path} is a {type(models[0]).__name__}")
    if options.slice_length < 0 or options.samples < 1:
        sys.exit(f"--slice-length must be at least 0 and --samples 1; got {options.slice_length}, {options.samples}")
    length = options.length or task.args.tokens_per_sample
    task.args.tokens_per_sample = length
    task.load_dataset(options.subset)
    dataset = task.dataset(options.subset)
    samples = [dataset[i] for i in range(min(options.samples, len(dataset))) if dataset.size(i) == length]
    if not samples:
        sys.exit(f"{options.subset} must have at least one sequence of {length} bytes; it has none")
    rates = [float(rate) for rate in options.lr.split(",")]
    ways = {"whole": 0, "slices": options.slice_length or -(-length // 4)}
    report = {
        "length": length,
        "slice_length": ways["slices"],
        "samples": len(samples),
        "without": 0.0,
        "with": {name: dict.fromkeys(rates, 0.0) for name in ways},
        "activations": {},
    }
    for sample in samples:
        tokens, target = sample["source"].unsqueeze(0), sample["target"].unsqueeze(0)
        report["without"] += second_half(models[0].decoder, tokens, target) / len(samples)
        for name, slice_length in ways.items():
            grads, peak = gradients(models[0].decoder, tokens, target, slice_length)
            report["activations"][name] = peak
            for rate in rates:
                loss = after_step(models[0].decoder, grads, rate, tokens, target)
                report["with"][name][rate] += loss / len(samples)
    show(report)
    if options.json:
        options.json.write_text(json.dumps(report, indent=2) + "\n", "utf-8")


def second_half(decoder: SlimDecoder, tokens: Tensor, target: Tensor) -> float:
    """Bits per byte of the second half of a sequence, given the first."""
    half = tokens.size(1) // 2
    only_second = target.clone()
    only_second[:, :half] = decoder.padding_idx
    with torch.no_grad():
        loss, _ = slim_cross_entropy(decoder, tokens, only_second)
    return float(loss) / (tokens.size(1) - half) / math.log(2)


def gradients(decoder: SlimDecoder, tokens: Tensor, target: Tensor, slice_length: int) -> tuple:
    """Of the mean loss of the first half; and the bytes of activations that they took, or None."""
    half = tokens.size(1) // 2
    decoder.zero_grad(set_to_none=False)
    counter = PeakBytes() if CAN_TRACK else None
    if counter is None:
        (slim_cross_entropy(decoder, tokens[:, :half], target[:, :half], slice_length)[0] / half).backward()
    else:
        with counter:
            (slim_cross_entropy(decoder, tokens[:, :half], target[:, :half], slice_length)[0] / half).backward()
    return [p.grad.clone() for p in decoder.parameters()], counter and counter.take()


def after_step(decoder: SlimDecoder, grads: list, rate: float, tokens: Tensor, target: Tensor) -> float:
    """:func:`second_half` after a step, which is taken back."""
    weights = [p.detach().clone() for p in decoder.parameters()]
    with torch.no_grad():
        for parameter, grad in zip(decoder.parameters(), grads):
            parameter.sub_(grad, alpha=rate)
    loss = second_half(decoder, tokens, target)
    with torch.no_grad():
        for parameter, weight in zip(decoder.parameters(), weights):
            parameter.copy_(weight)
    return loss


def show(report: dict) -> None:
    columns = {"whole": "step, whole", "slices": f"step, C = {report['slice_length']}"}
    rows = [
        {"learning rate": f"{rate:g}", **{columns[name]: f"{report['with'][name][rate]:.4f}" for name in columns}}
        for rate in report["with"]["whole"]
    ]
    sys.stdout.write(
        f"{report['samples']} sequences of {report['length']} bytes; bits per byte of their second halves\n"
    )
    sys.stdout.write(
        f"without a step: {report['without']:.4f}\n{tabulate(rows, headers='keys', disable_numparse=True)}\n"
    )
    if all(report["activations"].values()):
        sizes = ", ".join(f"{columns[name]}: {format_size(peak)}" for name, peak in report["activations"].items())
        sys.stdout.write(f"activations and new gradients at the peak: {sizes}\n")


if __name__ == "__main__":
    main()
