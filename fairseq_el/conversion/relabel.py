"""Renames the architecture of a checkpoint to its EL twin, and back. Nothing else changes."""

from __future__ import annotations

from typing import Any, List

from fairseq.models import ARCH_MODEL_REGISTRY

from fairseq_el.conversion.checkpoint import Checkpoint, get_setting, set_setting
from fairseq_el.errors import FairseqElError

PREFIX = "el_"


def stock_name(arch: str) -> str:
    """Returns the name of fairseq's architecture, also for its EL twin."""
    return arch[len(PREFIX) :] if arch.startswith(PREFIX) else arch


def to_el(checkpoint: Checkpoint) -> None:
    """Gives the model an architecture that decodes with EL-attention under every task.

    fairseq finds it where this package is loaded (``--user-dir``).

    Raises:
        FairseqElError: it has one already, or its architecture has no EL twin.
    """
    arch = checkpoint.arch
    if arch.startswith(PREFIX):
        raise FairseqElError(f"to-el needs a stock architecture; {checkpoint.path} has {arch} already")
    if PREFIX + arch not in ARCH_MODEL_REGISTRY:
        raise FairseqElError(
            f"to-el needs one of fairseq's architectures transformer*, transformer_lm*, bart_* or mbart_*; "
            f"{checkpoint.path} has {arch}"
        )
    _rename(checkpoint, lambda name: PREFIX + name)


def to_stock(checkpoint: Checkpoint) -> None:
    """Gives the model fairseq's own architecture again.

    Raises:
        FairseqElError: it has fairseq's already, or the model has something that fairseq's own code does not compute.
    """
    arch = checkpoint.arch
    if not arch.startswith(PREFIX):
        raise FairseqElError(
            f"to-stock needs an architecture el_*; {checkpoint.path} has {arch}, which is fairseq's own already"
        )
    extras = _extras(checkpoint)
    if extras:
        raise FairseqElError(
            f"to-stock needs a model that fairseq's own code computes; {checkpoint.path} has {' and '.join(extras)}, "
            f"which only this package's {arch} has. Decode it with --user-dir fairseq_el"
        )
    _rename(checkpoint, stock_name)


def _extras(checkpoint: Checkpoint) -> List[str]:
    """Lists what keeps fairseq's own code from computing the model."""
    extras = []
    if "decoder.output_projection.bias" in checkpoint.weights:
        extras.append("a bias of the output projection (--output-bias)")
    if any(get_setting(settings, "activation_fn") == "swish" for settings in checkpoint.model_settings()):
        extras.append("the activation swish, which fails in fairseq 0.12")
    return extras


def _rename(checkpoint: Checkpoint, renamed: Any) -> None:
    for settings in checkpoint.model_settings():
        for name in ("arch", "_name"):
            value = get_setting(settings, name)
            if isinstance(value, str):
                set_setting(settings, name, renamed(value))
