"""What Top-k attention is asked for, and which modules of a model it applies to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Dict, FrozenSet, Optional

from fairseq.modules import MultiheadAttention
from torch import nn

from fairseq_el.errors import OptionError
from fairseq_el.ops import MOST_QUERIES

PLACES = ("encoder", "decoder", "cross")
ALL_PLACES = "all"
DEFAULT_QUERY_CHUNK = MOST_QUERIES
_ATTRIBUTE = "topk"
_FUSED, _WAS_FUSED = "can_use_fastpath", "_topk_was_fused"


@dataclass(frozen=True)
class TopkAttentionSettings:
    """Of one attention module.

    Attributes:
        k: how many scores of a query are kept.
        query_chunk: how many queries are scored at a time.
        causal: it is a decoder's self-attention; the only mask that fairseq gives it hides the future.
    """

    k: int
    query_chunk: int = DEFAULT_QUERY_CHUNK
    causal: bool = False


def parse_places(text: str) -> Optional[FrozenSet[str]]:
    """``"encoder,cross"`` to its parts; ``"all"`` to None: wherever a model has attention.

    Raises:
        OptionError: one is not a place of attention.
    """
    if text == ALL_PLACES:
        return None
    places = [place.strip() for place in text.split(",")]
    if not set(places) <= set(PLACES):
        raise OptionError(
            f"--topk-attention-in must be {ALL_PLACES}, or some of {', '.join(PLACES)} with commas between them; "
            f"got {text!r}"
        )
    return frozenset(places)


def check_values(attention: Optional[int], ffn: Optional[int], query_chunk: int) -> None:
    """Raises an :class:`OptionError` that names all values that are not whole numbers from 1 on."""
    problems = [
        f"{option} must be a whole number, at least 1; it is {value!r}. It is {meaning}."
        for option, value, meaning in (
            ("--topk-attention", attention, "how many keys a query attends to"),
            ("--topk-ffn", ffn, "how many hidden units of a token are kept"),
            ("--topk-query-chunk", query_chunk, "how many queries are scored at a time"),
        )
        if value is not None and (not isinstance(value, int) or value < 1)
    ]
    if problems:
        raise OptionError(" ".join(problems))


def attentions_in(model: nn.Module, places: Optional[FrozenSet[str]] = None) -> Dict[str, MultiheadAttention]:
    """The attention modules of a model that are in some of :data:`PLACES` (default: in any), by name."""
    found = {}
    for side in ("encoder", "decoder"):
        for name, module in getattr(model, side, nn.Module()).named_modules():
            if isinstance(module, MultiheadAttention) and (places is None or _place(module, side) in places):
                found[f"{side}.{name}"] = module
    return found


def feed_forwards(model: nn.Module) -> Dict[str, Any]:
    """The layers of a model that have a feed-forward part as fairseq's Transformers, by name."""
    parts = ("fc1", "fc2", "activation_fn", "activation_dropout_module")
    return {name: module for name, module in model.named_modules() if all(hasattr(module, part) for part in parts)}


def topk_of(attention: nn.Module, num_keys: Optional[int] = None) -> Optional[TopkAttentionSettings]:
    """What an attention module was asked for; None where it is ordinary, as with no more than ``k`` keys."""
    settings: Optional[TopkAttentionSettings] = attention.__dict__.get(_ATTRIBUTE)
    return None if settings is None or (num_keys is not None and num_keys <= settings.k) else settings


def set_topk(attention: nn.Module, settings: Optional[TopkAttentionSettings]) -> None:
    if settings is None:
        attention.__dict__.pop(_ATTRIBUTE, None)
    else:
        attention.__dict__[_ATTRIBUTE] = settings


def use_fused_layers(model: nn.Module, use: bool) -> None:
    """Keeps fairseq 0.12.2 from its fused encoder layers, which call none of a layer's modules; or lets it again.

    The encoder decides by its first layer for all of them, so it is all or none.
    """
    for layer in getattr(getattr(model, "encoder", None), "layers", ()):
        if use and layer.__dict__.pop(_WAS_FUSED, False):
            layer.__dict__[_FUSED] = True
        elif not use and layer.__dict__.get(_FUSED, False):
            layer.__dict__.update({_FUSED: False, _WAS_FUSED: True})


def _place(attention: MultiheadAttention, side: str) -> str:
    return "cross" if attention.encoder_decoder_attention else side
