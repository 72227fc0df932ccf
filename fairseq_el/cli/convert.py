"""``fairseq-el convert``: subcommands that relabel, strip, average, describe and convert checkpoints."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, Callable

import torch

from fairseq_el.cli import convert_info
from fairseq_el.cli.parser import add_command, add_subcommands
from fairseq_el.cli.streams import write_line
from fairseq_el.conversion import (
    Checkpoint,
    average,
    load_checkpoint,
    merge_shards,
    save_checkpoint,
    strip,
    to_el,
    to_stock,
)
from fairseq_el.conversion.hf import FAMILIES, ConversionSummary, from_hf, to_hf
from fairseq_el.errors import OptionError
from fairseq_el.files import need_directory, refuse_to_overwrite
from fairseq_el.units import format_size

_DESCRIPTION = (
    "Describes fairseq's checkpoints, relabels them for EL-attention and back, strips what only training needs, and "
    "converts Hugging Face's models to fairseq's and back."
)
_TO_EL = "have a model decode with EL-attention under every task (--user-dir fairseq_el)"
_TO_STOCK = "give an el_* model fairseq's own architecture again"
_STRIP = (
    "Writes a checkpoint with what inference needs: weights, settings and the state of the task. With several "
    "checkpoints and --average, the mean of their weights; with all shards of one and --merge, the whole."
)
_FAMILIES = ", ".join(family.name for family in FAMILIES)
_FROM_HF = (
    "Writes a directory with model.pt, dict.txt, the tokenizer's files as fairseq has them, and generate.args, the "
    f"model's defaults as options of fairseq-generate. Families: {_FAMILIES}."
)
_TO_HF = (
    "Writes a directory for from_pretrained, with config.json, model.safetensors, and the tokenizer's files where it "
    f"is known. Families: {_FAMILIES}."
)


def add_parser(commands: Any, summary: str) -> None:
    kinds = add_subcommands(add_command(commands, "convert", None, summary, _DESCRIPTION), "KIND", "kinds")
    _add_relabel(kinds, "to-el", to_el, _TO_EL)
    _add_relabel(kinds, "to-stock", to_stock, _TO_STOCK)
    _add_strip(kinds)
    _add_from_hf(kinds)
    _add_to_hf(kinds)
    convert_info.add_parser(kinds)


def _add_relabel(kinds: Any, name: str, change: Callable[[Checkpoint], None], summary: str) -> None:
    description = (
        f"Writes the checkpoint with another name of its architecture, to {summary}. Weights and all else stay the "
        "same, bit by bit."
    )
    kind = add_command(kinds, name, _relabel, summary, description)
    kind.set_defaults(change=change)
    kind.add_argument("checkpoint", metavar="CKPT")
    _add_output(kind)


def _add_strip(kinds: Any) -> None:
    kind = add_command(kinds, "strip", _strip, "drop the optimizer and all else that only training needs", _STRIP)
    kind.add_argument("checkpoints", metavar="CKPT", nargs="+")
    dtype = kind.add_mutually_exclusive_group()
    dtype.add_argument(
        "--fp16", dest="dtype", action="store_const", const=torch.float16, help="weights in half precision"
    )
    dtype.add_argument("--bf16", dest="dtype", action="store_const", const=torch.bfloat16, help="weights in bfloat16")
    several = kind.add_mutually_exclusive_group()
    several.add_argument("--average", action="store_true", help="the mean of several checkpoints of one training run")
    several.add_argument(
        "--merge",
        action="store_true",
        help="one checkpoint of all its shards, CKPT-shard0.pt and so on, of fully sharded training (needs fairscale)",
    )
    _add_output(kind)


def _add_output(kind: Any) -> None:
    kind.add_argument("--out", type=Path, required=True, metavar="FILE", help="the checkpoint to write")
    kind.add_argument("--force", action="store_true", help="let --out overwrite")


def _add_from_hf(kinds: Any) -> None:
    summary = "a Hugging Face model as a fairseq checkpoint, with dictionary and tokenizer"
    kind = add_command(kinds, "from-hf", _from_hf, summary, _FROM_HF)
    kind.add_argument("source", metavar="DIR", type=Path, help="directory that save_pretrained wrote")
    _add_directory_output(kind)


def _add_to_hf(kinds: Any) -> None:
    kind = add_command(kinds, "to-hf", _to_hf, "a fairseq checkpoint as a Hugging Face model", _TO_HF)
    kind.add_argument("source", metavar="CKPT", type=Path, help="checkpoint, or a directory with model.pt")
    kind.add_argument(
        "--data", type=Path, metavar="DIR", help="directory with the dictionaries (default: that of the checkpoint)"
    )
    kind.add_argument(
        "--begin",
        action="store_true",
        help="sources and outputs of a BART model begin with <s>, as fairseq's hub has them (default: as "
        "fairseq-generate has them)",
    )
    _add_directory_output(kind)


def _add_directory_output(kind: Any) -> None:
    kind.add_argument("--out", type=Path, required=True, metavar="DIR", help="the directory to write")
    kind.add_argument("--force", action="store_true", help="let --out replace what this command has written")
    kind.add_argument(
        "--verify",
        action="store_true",
        help="compare logits of both programs on sample input in fp32, and fail if they differ by more than 1e-4 of "
        "the largest (needs transformers)",
    )


def _relabel(options: argparse.Namespace) -> int:
    refuse_to_overwrite(options.out, "--out", options.force, [options.checkpoint])
    need_directory(options.out, "--out")
    checkpoint = load_checkpoint(options.checkpoint, "CKPT")
    before = checkpoint.arch
    options.change(checkpoint)
    save_checkpoint(checkpoint.state, options.out, options.force)
    write_line(f"{options.out}: {checkpoint.arch} (was {before}), {len(checkpoint.weights)} tensors as they were")
    return 0


def _strip(options: argparse.Namespace) -> int:
    if len(options.checkpoints) > 1 and not (options.average or options.merge):
        raise OptionError(
            f"strip takes one checkpoint, or several with --average or --merge; got {len(options.checkpoints)}"
        )
    refuse_to_overwrite(options.out, "--out", options.force, options.checkpoints)
    need_directory(options.out, "--out")
    checkpoints = [load_checkpoint(path, "CKPT") for path in options.checkpoints]
    if options.average:
        average(checkpoints)
    stripped = merge_shards(checkpoints) if options.merge else checkpoints[-1]
    save_checkpoint(strip(stripped, options.dtype), options.out, options.force)
    sizes = [Path(path).stat().st_size for path in options.checkpoints]
    before = sum(sizes) if options.merge else sizes[-1]
    write_line(f"{options.out}: {format_size(options.out.stat().st_size)} (was {format_size(before)})")
    return 0


def _from_hf(options: argparse.Namespace) -> int:
    _write_summary(from_hf(options.source, options.out, options.force, options.verify), options.out)
    return 0


def _to_hf(options: argparse.Namespace) -> int:
    summary = to_hf(options.source, options.out, options.data, options.force, options.verify, options.begin)
    _write_summary(summary, options.out)
    return 0


def _write_summary(summary: ConversionSummary, out: Path) -> None:
    write_line(
        f"{out}: {summary.family}, fairseq's {summary.arch}, {summary.tensors} tensors, {summary.vocabulary} symbols"
    )
    if summary.largest_difference is not None:
        write_line(f"logits differ by at most {summary.largest_difference:.2g} of the largest")
    for note in summary.notes:
        write_line(f"note: {note}")
    for usage in summary.usage:
        write_line(usage.replace("{out}", str(out)))
