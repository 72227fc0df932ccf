"""Turning Top-k attention on and off in a fairseq model, in place. Parameters and the state dict are untouched."""

from __future__ import annotations

import logging
from typing import Any, Dict, FrozenSet, List, Optional, TypeVar

from fairseq.modules import MultiheadAttention
from torch import nn

from fairseq_el.decoding.enable import models_in
from fairseq_el.errors import OptionError
from fairseq_el.topk.feed_forward import (
    disable_topk_feed_forward,
    enable_topk_feed_forward,
    unsupported_by_topk,
)
from fairseq_el.topk.multihead_attention import TopkMultiheadAttention
from fairseq_el.topk.settings import (
    ALL_PLACES,
    DEFAULT_QUERY_CHUNK,
    TopkAttentionSettings,
    attentions_in,
    check_values,
    feed_forwards,
    parse_places,
    set_topk,
    topk_of,
    use_fused_layers,
)

logger = logging.getLogger(__name__)

Models = TypeVar("Models")  # a model, a list of models, or a hub interface that holds some


def enable_topk_attention(
    models: Models,
    attention: Optional[int] = None,
    places: str = ALL_PLACES,
    ffn: Optional[int] = None,
    query_chunk: int = DEFAULT_QUERY_CHUNK,
) -> Models:
    """Makes models attend to the k largest scores of every query only (Gupta et al. 2021), in place.

    In training, scoring and decoding, with or without EL-attention (before or after it is enabled). It is another
    function than the model was trained with, unless ``k`` is as large as what there is to attend to.

    Args:
        models: a fairseq Transformer, with an encoder or without, a list of them, or a hub interface.
        attention: k of attention (default: attention stays as it is).
        places: where: ``encoder``, ``decoder`` (self-attention) and ``cross``, with commas between them, or ``all``;
            elsewhere attention is ordinary, whatever it was before.
        ffn: k of feed-forward layers with relu or gelu (default: they stay as they are).
        query_chunk: how many queries are scored at a time, at most.

    Returns:
        ``models``.

    Raises:
        OptionError: a value is out of range, or a model has no such layers or others than fairseq's; all problems are
            named. No model has been changed.
    """
    check_values(attention, ffn, query_chunk)
    where = parse_places(places)
    _check_use(attention, places, ffn, query_chunk)
    problems = [problem for model in models_in(models) for problem in _problems(model, attention, where, ffn)]
    if problems:
        raise OptionError("Top-k can't be had as asked: " + "; ".join(problems))
    for model in models_in(models):
        if attention is not None:
            _enable_attention(model, attention, where, query_chunk)
        if ffn is not None:
            for layer in feed_forwards(model).values():
                enable_topk_feed_forward(layer, ffn)
            logger.info("Top-k of %d in %d feed-forward layers", ffn, len(feed_forwards(model)))
        use_fused_layers(model, not _encodes_with_topk(model))
    return models


def _check_use(attention: Optional[int], places: str, ffn: Optional[int], query_chunk: int) -> None:
    """Raises an :class:`OptionError` where something is asked for that would do nothing."""
    if attention is not None:
        return
    problems = [
        f"{option} needs --topk-attention K; got {value!r} without it"
        for option, value, default in (
            ("--topk-attention-in", places, ALL_PLACES),
            ("--topk-query-chunk", query_chunk, DEFAULT_QUERY_CHUNK),
        )
        if value != default
    ]
    if ffn is None:
        problems = problems or ["Top-k needs a K, of attention, of feed-forward layers (ffn), or of both; got neither"]
    if problems:
        raise OptionError("; ".join(problems))


def _enable_attention(model: Any, k: int, where: Optional[FrozenSet[str]], query_chunk: int) -> None:
    modules = attentions_in(model, where)
    for name, module in attentions_in(model).items():
        if name not in modules:
            _disable_attention(module)
    for name, module in modules.items():
        if type(module) is MultiheadAttention:
            module.__class__ = TopkMultiheadAttention
        causal = name.startswith("decoder.") and not module.encoder_decoder_attention
        set_topk(module, TopkAttentionSettings(k, query_chunk, causal))
    logger.info("Top-k of %d in %d attention modules", k, len(modules))


def _disable_attention(module: MultiheadAttention) -> None:
    set_topk(module, None)
    if type(module) is TopkMultiheadAttention:
        module.__class__ = MultiheadAttention


def disable_topk_attention(models: Models) -> Models:
    """Puts models back as :func:`enable_topk_attention` found them. Others are left as they are."""
    for model in models_in(models):
        for module in attentions_in(model).values():
            _disable_attention(module)
        for layer in feed_forwards(model).values():
            disable_topk_feed_forward(layer)
        use_fused_layers(model, True)
    return models


def topk_enabled(model: Any) -> bool:
    """Whether any part of a model is Top-k."""
    return _any_topk(attentions_in(model), feed_forwards(model))


def _encodes_with_topk(model: Any) -> bool:
    return _any_topk(
        attentions_in(model, frozenset(["encoder"])), feed_forwards(getattr(model, "encoder", nn.Module()))
    )


def _any_topk(attentions: Dict[str, MultiheadAttention], layers: Dict[str, Any]) -> bool:
    return any(topk_of(module) is not None for module in attentions.values()) or any(
        "topk" in layer.fc2.__dict__ for layer in layers.values()
    )


def _problems(model: Any, attention: Optional[int], where: Optional[FrozenSet[str]], ffn: Optional[int]) -> List[str]:
    problems = []
    name = type(model).__name__
    if attention is not None:
        for place in sorted(where or ()):
            if not attentions_in(model, frozenset([place])):
                problems.append(f"--topk-attention-in names {place}, but a {name} has no such attention")
        found = attentions_in(model, where)
        if where is None and not found:
            problems.append(f"--topk-attention: a {name} has no attention of fairseq's")
        problems.extend(f"--topk-attention: {of} {reason}" for of, m in found.items() for reason in _reasons(m))
    if ffn is not None:
        layers = feed_forwards(model)
        if not layers:
            problems.append(f"--topk-ffn: a {name} has no feed-forward layers of fairseq's")
        problems.extend(
            f"--topk-ffn: {of}: {why}" for of, layer in layers.items() for why in unsupported_by_topk(layer)
        )
    return problems


def _reasons(module: MultiheadAttention) -> List[str]:
    reasons = []
    if type(module) is not MultiheadAttention and not isinstance(module, TopkMultiheadAttention):
        reasons.append(f"is a {type(module).__name__}, not fairseq's own MultiheadAttention")
    if module.use_xformers:
        reasons.append("uses xformers")
    if module.bias_k is not None or module.add_zero_attn:
        reasons.append("has keys that belong to no word (add_bias_kv or add_zero_attn)")
    if module.dropout_module.p >= 1:
        reasons.append(f"drops all of its weights (--attention-dropout {module.dropout_module.p})")
    return reasons
