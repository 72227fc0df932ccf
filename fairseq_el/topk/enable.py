"""Turning Top-k attention on and off in a fairseq model, in place, and the options for it.

Parameters and the state dict are untouched.
"""

# No postponed annotations here: fairseq reads the types of the fields.
import logging
from dataclasses import dataclass, field
from typing import Any, Dict, FrozenSet, Iterable, List, Optional, TypeVar

from fairseq.modules import MultiheadAttention
from torch import nn

from fairseq_el.decoding import class_without_el, models_in, set_class_without_el
from fairseq_el.errors import OptionError
from fairseq_el.ops import MOST_QUERIES
from fairseq_el.topk.causal_mask import spare_future_mask
from fairseq_el.topk.feed_forward import (
    disable_topk_feed_forward,
    enable_topk_feed_forward,
    is_topk_feed_forward,
    unsupported_by_topk,
)
from fairseq_el.topk.multihead_attention import TopkAttentionSettings, TopkMultiheadAttention, set_topk, topk_of

logger = logging.getLogger(__name__)

Models = TypeVar("Models")  # a model, a list of models, or a hub interface that holds some

PLACES = ("encoder", "decoder", "cross")
ALL_PLACES = "all"
DEFAULT_QUERY_CHUNK = MOST_QUERIES
_FUSED, _WAS_FUSED = "can_use_fastpath", "_topk_was_fused"


def enable_topk_attention(
    models: Models,
    attention: Optional[int] = None,
    places: str = ALL_PLACES,
    ffn: Optional[int] = None,
    query_chunk: int = DEFAULT_QUERY_CHUNK,
) -> Models:
    """Makes models attend to the k largest scores of every query only (Gupta et al. 2021), in place.

    In training, scoring and decoding, with or without EL-attention (before or after it is enabled). A model computes
    another function than it was trained with, unless ``k`` is at least the number of keys.

    Args:
        models: a fairseq Transformer, with an encoder or without, a list of them, or a hub interface.
        attention: k of attention (default: attention stays as it is).
        places: the attention modules to change: ``encoder``, ``decoder`` (self-attention) and ``cross``, with commas
            between them, or ``all``. Attention in other places becomes ordinary, whatever it was before.
        ffn: k of feed-forward layers with relu or gelu (default: they stay as they are).
        query_chunk: how many queries are scored at a time, at most.

    Returns:
        ``models``.

    Raises:
        OptionError: a value is out of range, or a model has no such layers or others than fairseq's; all problems are
            named. No model has been changed.
    """
    _check_values(attention, ffn, query_chunk)
    where = parse_places(places)
    _check_use(attention, places, ffn, query_chunk)
    problems = [problem for model in models_in(models) for problem in _problems(model, attention, where, ffn)]
    if problems:
        raise OptionError("Top-k attention can't be enabled: " + "; ".join(problems))
    for model in models_in(models):
        if attention is not None:
            _enable_attention(model, attention, where, query_chunk)
        if ffn is not None:
            for layer in feed_forwards(model).values():
                enable_topk_feed_forward(layer, ffn)
            logger.info("Top-k of %d in %d feed-forward layers", ffn, len(feed_forwards(model)))
        spare_future_mask(model)
        _use_fused_layers(model, not _encodes_with_topk(model))
    return models


def disable_topk_attention(models: Models) -> Models:
    """Puts models back as :func:`enable_topk_attention` found them. Others are left as they are."""
    for model in models_in(models):
        for module in attentions_in(model).values():
            _disable_attention(module)
        for layer in feed_forwards(model).values():
            disable_topk_feed_forward(layer)
        spare_future_mask(model)
        _use_fused_layers(model, True)
    return models


def topk_enabled(model: Any) -> bool:
    """Returns whether any part of a model is Top-k."""
    return _any_topk(attentions_in(model).values(), feed_forwards(model).values())


def parse_places(text: str) -> Optional[FrozenSet[str]]:
    """Splits ``"encoder,cross"`` into its places; ``"all"`` gives None: wherever a model has attention.

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


def attentions_in(model: nn.Module, places: Optional[FrozenSet[str]] = None) -> Dict[str, MultiheadAttention]:
    """The attention modules of a model that are in some of :data:`PLACES` (default: in any), by name."""
    found = {}
    for side in ("encoder", "decoder"):
        for name, module in getattr(model, side, nn.Module()).named_modules():
            if isinstance(module, MultiheadAttention) and (places is None or _place(module, side) in places):
                found[f"{side}.{name}"] = module
    return found


def feed_forwards(model: nn.Module) -> Dict[str, Any]:
    """The layers of a model that have a feed-forward part as fairseq's Transformers have it, by name."""
    parts = ("fc1", "fc2", "activation_fn", "activation_dropout_module")
    return {name: module for name, module in model.named_modules() if all(hasattr(module, part) for part in parts)}


def _place(attention: MultiheadAttention, side: str) -> str:
    return "cross" if attention.encoder_decoder_attention else side


def _check_values(attention: Optional[int], ffn: Optional[int], query_chunk: int) -> None:
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


def _check_use(attention: Optional[int], places: str, ffn: Optional[int], query_chunk: int) -> None:
    """Raises an :class:`OptionError` where an option is given that would do nothing."""
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


def _problems(model: Any, attention: Optional[int], where: Optional[FrozenSet[str]], ffn: Optional[int]) -> List[str]:
    """Everything that keeps Top-k out of a model; empty when nothing does."""
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
    """The reasons why an attention module can't be Top-k; empty when it can."""
    reasons = []
    own_class = class_without_el(module)
    if own_class not in (MultiheadAttention, TopkMultiheadAttention):
        reasons.append(f"is a {own_class.__name__}, not fairseq's own MultiheadAttention")
    if module.use_xformers:
        reasons.append("uses xformers")
    if module.bias_k is not None or module.add_zero_attn:
        reasons.append("has keys that belong to no word (add_bias_kv or add_zero_attn)")
    if module.dropout_module.p >= 1:
        reasons.append(f"drops all of its weights (--attention-dropout {module.dropout_module.p})")
    return reasons


def _enable_attention(model: Any, k: int, where: Optional[FrozenSet[str]], query_chunk: int) -> None:
    modules = attentions_in(model, where)
    for name, module in attentions_in(model).items():
        if name not in modules:
            _disable_attention(module)
    for name, module in modules.items():
        causal = name.startswith("decoder.") and not module.encoder_decoder_attention
        set_class_without_el(module, TopkMultiheadAttention)
        set_topk(module, TopkAttentionSettings(k, query_chunk, causal))
    logger.info("Top-k of %d in %d attention modules", k, len(modules))


def _disable_attention(module: MultiheadAttention) -> None:
    set_topk(module, None)
    if class_without_el(module) is TopkMultiheadAttention:
        set_class_without_el(module, MultiheadAttention)


def _encodes_with_topk(model: Any) -> bool:
    attentions = attentions_in(model, frozenset(["encoder"]))
    return _any_topk(attentions.values(), feed_forwards(getattr(model, "encoder", nn.Module())).values())


def _any_topk(attentions: Iterable[MultiheadAttention], layers: Iterable[Any]) -> bool:
    return any(topk_of(module) is not None for module in attentions) or any(map(is_topk_feed_forward, layers))


def _use_fused_layers(model: nn.Module, use: bool) -> None:
    """Forbids or allows the fused encoder layers of fairseq 0.12.2, which call none of a layer's modules.

    The encoder decides by its first layer for all of them, so either all layers are changed or none.
    """
    encoder = getattr(model, "encoder", None)
    for layer in getattr(encoder, "layers", getattr(encoder, "transformer_layers", ())):  # the latter for speech
        if use and layer.__dict__.pop(_WAS_FUSED, False):
            layer.__dict__[_FUSED] = True
        elif not use and layer.__dict__.get(_FUSED, False):
            layer.__dict__.update({_FUSED: False, _WAS_FUSED: True})


@dataclass
class TopkOptions:
    """The options of Top-k attention. Put it before the configuration of a model or a task."""

    topk_attention: Optional[int] = field(
        default=None,
        metadata={
            "help": "attend to the K largest scores of every query only (Gupta et al. 2021); another function than the "
            "checkpoint was trained with, unless K is as large as what there is to attend to"
        },
    )
    topk_attention_in: str = field(
        default=ALL_PLACES,
        metadata={
            "help": "where --topk-attention applies: encoder and decoder (self-attention) and cross, with commas "
            "between them, or all"
        },
    )
    topk_ffn: Optional[int] = field(
        default=None,
        metadata={"help": "keep the K largest hidden units of every token in feed-forward layers with relu or gelu"},
    )
    topk_query_chunk: int = field(
        default=DEFAULT_QUERY_CHUNK,
        metadata={
            "help": f"queries that --topk-attention scores at a time, {DEFAULT_QUERY_CHUNK} at most; without dropout, "
            "results do not depend on it"
        },
    )


def apply_topk(model: Any, settings: Any) -> Any:
    """Enables Top-k attention in ``model`` as the ``settings`` of a model or a task ask for it, and returns the model.

    Raises:
        OptionError: a value is out of range, or the model has no layers that can be Top-k.
    """
    options = TopkOptions()
    for name in vars(options):
        setattr(options, name, getattr(settings, name, getattr(options, name)))
    if options == TopkOptions():
        return model
    return enable_topk_attention(
        model, options.topk_attention, options.topk_attention_in, options.topk_ffn, options.topk_query_chunk
    )
