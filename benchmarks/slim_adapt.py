"""Measures whether one gradient step on the first half of a text helps on its second half, in bits per byte.

    python benchmarks/slim_adapt.py DATA --path checkpoint.pt [--slice-length C] [--lr LR[,LR...]] [--samples N]

Makes the table of "Does a step of adaptation help?" in docs/slim.md, after Likhosherstov et al., "Sub-Linear Memory:
How to Make Performers SLiM", NeurIPS 2021, section 4. For each sequence of L bytes, a step of plain gradient descent
on the mean loss of its first L/2 bytes is made, whole and in slices, from the trained weights each time. Then the
second half is predicted, which sees all bytes before it either way. DATA is as for --task byte_language_modeling.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from pathlib import Path
from typing import Any

import torch
from common import Arguments, make_parser, run_benchmark
from fairseq import checkpoint_utils
from tabulate import tabulate
from torch import Tensor

from fairseq_el.cli.options import check_file, not_negative, positive
from fairseq_el.cli.streams import write_line
from fairseq_el.errors import FairseqElError, OptionError
from fairseq_el.failure_report import explain, explain_loading
from fairseq_el.files import write_whole
from fairseq_el.measure import peak_bytes
from fairseq_el.slim import SlimDecoder, slim_cross_entropy
from fairseq_el.slim.byte_language_modeling import SPLITS
from fairseq_el.units import format_size


def main(arguments: Arguments = None) -> int:
    """Args: ``arguments``: of the command line (default: those of this process)."""
    return run_benchmark(_parser(), adapt, arguments)


def _parser() -> argparse.ArgumentParser:
    parser = make_parser("slim_adapt.py", __doc__)
    parser.add_argument("data", type=Path, metavar="DATA")
    parser.add_argument("--path", required=True, metavar="FILE", help="a slim_performer_lm that fairseq-train wrote")
    parser.add_argument("--subset", choices=SPLITS, default="valid", help="(default: %(default)s)")
    parser.add_argument(
        "--slice-length", type=not_negative, default=0, metavar="C", help="(default: a quarter of the sequence)"
    )
    parser.add_argument(
        "--lr", type=_rates, default=(0.001, 0.01, 0.1), metavar="LIST", help="of the step (default: 0.001,0.01,0.1)"
    )
    parser.add_argument("--samples", type=positive, default=20, metavar="N", help="sequences (default: %(default)s)")
    parser.add_argument("--length", type=_two_or_more, metavar="L", help="(default: as in training)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the results there")
    parser.add_argument("--force", action="store_true", help="let --json overwrite")
    return parser


def _rates(text: str) -> list[float]:
    try:
        rates = [float(rate) for rate in text.split(",")]
    except ValueError:
        rates = []
    if not rates or not all(0 < rate < math.inf for rate in rates):
        raise argparse.ArgumentTypeError(f"must be numbers above 0, with commas; got {text!r}")
    return list(dict.fromkeys(rates))


def _two_or_more(text: str) -> int:
    number = positive(text)
    if number < 2:
        raise argparse.ArgumentTypeError(f"must be at least 2, for two halves; got {text!r}")
    return number


def adapt(options: argparse.Namespace) -> None:
    """
    Raises:
        FairseqElError: there is no model, or no data, to begin with.
    """
    if options.json is not None:
        inputs = [options.path, options.data, *(options.data.iterdir() if options.data.is_dir() else [])]
        check_file(options.json, options.force, "--json", inputs)
    model, task = load(options.path, options.data)
    length = options.length or task.args.tokens_per_sample
    samples = sequences(task, options.subset, length, options.samples)
    report = measure(model.decoder, samples, options.lr, options.slice_length or -(-length // 4))
    show(report)
    if options.json is not None:
        text = json.dumps(report, indent=2) + "\n"
        write_whole(options.json, lambda path: path.write_text(text, "utf-8"), options.force)


def load(path: str, data: Path) -> tuple:
    """The model of a checkpoint, and its task with other data."""
    if not Path(path).is_file():
        raise OptionError(f"--path must be a checkpoint that fairseq-train wrote; there is no file {path}")
    if not data.exists():
        raise OptionError(f"DATA must be a file, or a directory of files; there is no {data}")
    try:
        models, _, task = checkpoint_utils.load_model_ensemble_and_task([path], arg_overrides={"data": str(data)})
    except FairseqElError:
        raise
    except Exception as error:  # any kind, where the file is no checkpoint
        raise FairseqElError(explain(error) or explain_loading(path, error)) from error
    if not isinstance(getattr(models[0], "decoder", None), SlimDecoder):
        raise OptionError(f"--path must be a slim_performer_lm; {path} is a {type(models[0]).__name__}")
    return models[0], task


def sequences(task: Any, subset: str, length: int, most: int) -> list:
    """The first of a subset that are not shorter than the others."""
    task.args.tokens_per_sample = length
    task.load_dataset(subset)
    dataset = task.dataset(subset)
    samples = [dataset[i] for i in range(min(most, len(dataset))) if dataset.size(i) == length]
    if not samples:
        raise FairseqElError(f"{subset} must have at least one sequence of {length} bytes; it has none")
    return samples


def measure(decoder: SlimDecoder, samples: list, rates: list[float], slice_length: int) -> dict:
    """Bits per byte, means over the sequences, and bytes of activations."""
    ways = {"whole": 0, "slices": slice_length}
    report: dict = {
        "length": len(samples[0]["source"]),
        "slice_length": slice_length,
        "samples": len(samples),
        "without": 0.0,
        "with": {name: dict.fromkeys(rates, 0.0) for name in ways},
        "activations": {},
    }
    for sample in samples:
        tokens, target = sample["source"].unsqueeze(0), sample["target"].unsqueeze(0)
        report["without"] += second_half(decoder, tokens, target) / len(samples)
        for name, at_a_time in ways.items():
            grads, peak = gradients(decoder, tokens, target, at_a_time)
            report["activations"][name] = peak
            for rate in rates:
                report["with"][name][rate] += after_step(decoder, grads, rate, tokens, target) / len(samples)
    return report


def second_half(decoder: SlimDecoder, tokens: Tensor, target: Tensor) -> float:
    """Bits per byte of the second half of a sequence, given the first."""
    half = tokens.size(1) // 2
    only_second = target.clone()
    only_second[:, :half] = decoder.padding_idx
    with torch.no_grad():
        loss, _ = slim_cross_entropy(decoder, tokens, only_second)
    return float(loss) / (tokens.size(1) - half) / math.log(2)


def gradients(decoder: SlimDecoder, tokens: Tensor, target: Tensor, slice_length: int) -> tuple:
    """Gradients of the mean loss of the first half; and the bytes of activations that they took, or None."""
    half = tokens.size(1) // 2
    decoder.zero_grad(set_to_none=False)

    def backward() -> None:
        (slim_cross_entropy(decoder, tokens[:, :half], target[:, :half], slice_length)[0] / half).backward()

    peak = peak_bytes(backward, tokens.device.type)
    return [p.grad.clone() for p in decoder.parameters()], peak


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
    write_line(f"{report['samples']} sequences of {report['length']} bytes; bits per byte of their second halves")
    write_line(f"without a step: {report['without']:.4f}\n{tabulate(rows, headers='keys', disable_numparse=True)}")
    if all(report["activations"].values()):
        sizes = ", ".join(f"{columns[name]}: {format_size(peak)}" for name, peak in report["activations"].items())
        write_line(f"activations and new gradients at the peak: {sizes}")


if __name__ == "__main__":
    sys.exit(main())
