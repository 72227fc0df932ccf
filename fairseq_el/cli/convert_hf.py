"""``fairseq-el convert from-hf`` and ``to-hf``: models of Hugging Face's transformers."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from fairseq_el.cli.parser import add_command
from fairseq_el.cli.streams import write_line
from fairseq_el.conversion.hf import FAMILIES, ConversionSummary, from_hf, to_hf

_FAMILIES = ", ".join(family.name for family in FAMILIES)
_FROM_HF = (
    "Writes a directory with model.pt, dict.txt, the tokenizer's files as fairseq has them, and generate.args, the "
    f"model's defaults as options of fairseq-generate. Families: {_FAMILIES}."
)
_TO_HF = (
    "Writes a directory for from_pretrained, with config.json, model.safetensors, and the tokenizer's files where it "
    f"is known. Families: {_FAMILIES}."
)


def add_parsers(kinds: Any) -> None:
    """Adds ``from-hf`` and ``to-hf``."""
    summary = "a Hugging Face model as a fairseq checkpoint, with dictionary and tokenizer"
    kind = add_command(kinds, "from-hf", _from_hf, summary, _FROM_HF)
    kind.add_argument("source", metavar="DIR", type=Path, help="directory that save_pretrained wrote")
    _add_common(kind)
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
    _add_common(kind)


def _add_common(kind: Any) -> None:
    kind.add_argument("--out", type=Path, required=True, metavar="DIR", help="the directory to write")
    kind.add_argument("--force", action="store_true", help="let --out replace what this command has written")
    kind.add_argument(
        "--verify",
        action="store_true",
        help="compare logits of both programs on sample input in fp32, and fail if they differ by more than 1e-4 of "
        "the largest (needs transformers)",
    )


def _from_hf(options: argparse.Namespace) -> int:
    _write(from_hf(options.source, options.out, options.force, options.verify), options.out)
    return 0


def _to_hf(options: argparse.Namespace) -> int:
    summary = to_hf(options.source, options.out, options.data, options.force, options.verify, options.begin)
    _write(summary, options.out)
    return 0


def _write(summary: ConversionSummary, out: Path) -> None:
    write_line(
        f"{out}: {summary.family}, fairseq's {summary.arch}, {summary.tensors} tensors, {summary.vocabulary} symbols"
    )
    if summary.largest_difference is not None:
        write_line(f"logits differ by at most {summary.largest_difference:.2g} of the largest")
    for note in summary.notes:
        write_line(f"note: {note}")
    for usage in summary.usage:
        write_line(usage.replace("{out}", str(out)))
