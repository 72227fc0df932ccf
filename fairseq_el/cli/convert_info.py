"""``fairseq-el convert info``: a description of a checkpoint."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any, Dict, List, Optional

from fairseq_el.cli.model_shapes import shape_of_weights
from fairseq_el.cli.parser import add_command
from fairseq_el.cli.streams import write_line
from fairseq_el.conversion import (
    Checkpoint,
    Description,
    describe,
    el_limits,
    load_checkpoint,
    of_one_pair,
    settings_of,
)
from fairseq_el.errors import FairseqElError, OptionError
from fairseq_el.units import format_size

_DESCRIPTION = (
    "Says architecture, task, sizes, dtype, bytes by part, dictionaries, and what keeps EL-attention from decoding the "
    "model, if anything does."
)
_BYTES = {"weights": "weights", "optimizer": "optimizer state", "other": "other tensors"}


def add_parser(kinds: Any) -> None:
    kind = add_command(kinds, "info", _info, "what a checkpoint is, and whether EL-attention decodes it", _DESCRIPTION)
    kind.add_argument("checkpoint", metavar="CKPT")
    kind.add_argument(
        "--data", type=Path, metavar="DIR", help="directory with the dictionaries (default: that of the checkpoint)"
    )
    kind.add_argument("--json", action="store_true", help="print it for programs")


def _info(options: argparse.Namespace) -> int:
    if options.data is not None and not options.data.is_dir():
        raise OptionError(f"--data must be a directory with dictionaries; there is no directory {options.data}")
    checkpoint = load_checkpoint(options.checkpoint, "CKPT")
    description = describe(checkpoint, options.data)
    sizes = _sizes(checkpoint)
    limits = _limits(checkpoint)
    if options.json:
        content = {
            **asdict(description),
            "sizes": sizes,
            "mismatches": description.mismatches(),
            "el_attention": limits,
        }
        write_line(json.dumps(content, indent=2))
    else:
        for line in [*_lines(description, sizes), _limits_line(limits)]:
            write_line(line)
    return 0


def _sizes(checkpoint: Checkpoint) -> Optional[Dict[str, Any]]:
    """Returns the sizes that ``fairseq-el plan`` uses; None where the model is not a Transformer."""
    try:
        of_pair = of_one_pair(checkpoint)
        return asdict(shape_of_weights(of_pair.weights, settings_of(of_pair)))
    except (FairseqElError, KeyError, TypeError, ValueError):
        return None


def _limits(checkpoint: Checkpoint) -> Dict[str, Any]:
    """Returns whether EL-attention is supported (None: not known), and the reasons why it is not, or is not known."""
    try:
        reasons = el_limits(checkpoint)
    except FairseqElError as error:
        return {"supported": None, "reasons": [str(error)]}
    return {"supported": not reasons, "reasons": reasons}


def _lines(description: Description, sizes: Optional[Dict[str, Any]]) -> List[str]:
    numbers = " and ".join(f"{count:,} in {dtype}" for dtype, count in description.numbers.items())
    lines = [f"{description.path}: {description.arch}, task {description.task}; numbers: {numbers}"]
    if description.pairs:
        lines.append(f"a model for each pair of languages, {', '.join(description.pairs)}; the first one has")
    for side in ("encoder", "decoder"):
        if sizes is not None and sizes[f"{side}_layers"]:
            layers, width, ffn, heads = (sizes[f"{side}_{name}"] for name in ("layers", "dim", "ffn_dim", "heads"))
            symbols = description.symbols.get(side, sizes["vocab_size"])
            lines.append(
                f"{side}: {layers} layers, width {width:,}, feed-forward {ffn:,}, {heads} heads, {symbols:,} symbols"
            )
    parts = ", ".join(f"{name} {format_size(description.bytes[key])}" for key, name in _BYTES.items())
    lines.append(f"file: {format_size(description.bytes['file'])}; {parts}")
    if not description.checked:
        lines.append("the file has no checksums: whether a number in it is damaged can't be told")
    if description.updates is not None:
        lines.append(f"training: {description.updates:,} updates")
    lines.extend(f"dictionary: {path}, {count:,} symbols" for path, count in description.dictionaries.items())
    if not description.dictionaries:
        lines.append("dictionary: none beside it (name its directory with --data)")
    lines.extend(f"mismatch: {mismatch}" for mismatch in description.mismatches())
    return lines


def _limits_line(limits: Dict[str, Any]) -> str:
    reasons = "; ".join(limits["reasons"])
    if limits["supported"] is None:
        return f"EL-attention: not known, because {reasons}"
    return f"EL-attention: not supported: {reasons}" if reasons else "EL-attention: supported"
