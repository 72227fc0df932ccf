"""Turning EL-attention on and off in a fairseq model, in place.

Parameters, buffers, hooks and the state dict are untouched. Attention modules change their class, as
``torch.nn.utils.parametrize`` does it. Some methods of the encoder and the decoder are shadowed by attributes of the
instance, as stock BART's own ``set_beam_size`` does it with ``encoder.reorder_encoder_out``. Disabling puts back what
was there before.
"""

from __future__ import annotations

import functools
import logging
from typing import Any, List, TypeVar

from torch import nn

from fairseq_el.cards.check import check_card_of, check_input
from fairseq_el.decoding.attention import SELF_ATTENTION, ELCrossAttention
from fairseq_el.decoding.decoder import reorder_shared_state, shared_forward
from fairseq_el.decoding.encoder import share_encoder_out
from fairseq_el.decoding.support import (
    cross_attentions,
    has_linear_attention,
    is_decoder_only,
    self_attentions,
    stock_task_of,
    unsupported_reasons,
)
from fairseq_el.errors import UnsupportedModelError

logger = logging.getLogger(__name__)

Models = TypeVar("Models")  # a model, a list of models, or a hub interface that holds some

BACKENDS = ("el", "shared-kv", "auto")
DEFAULT_BACKEND = "el"
DEFAULT_SELF_ATTENTION = "kv"

_SAVED = "_el_saved_attributes"


def enable_el_attention(models: Models, backend: str | None = None, self_attention: str | None = None) -> Models:
    """Does :func:`fairseq_el.enable_el_attention`, but of a hub interface changes only the models."""
    if backend not in (None, *BACKENDS):
        raise ValueError(f"backend must be one of {list(BACKENDS)}; got {backend!r}")
    if self_attention not in (None, *SELF_ATTENTION):
        raise ValueError(f"self_attention must be one of {list(SELF_ATTENTION)}; got {self_attention!r}")
    for model in models_in(models):
        check_card_of(model)
    to_enable = [model for model in _softmax_models(models) if not is_el_model(model)]
    for model in to_enable:
        reasons = unsupported_reasons(model)
        if reasons:
            raise UnsupportedModelError(type(model).__name__, reasons, stock_task_of(model))
    for model in to_enable:
        _enable(model, backend or DEFAULT_BACKEND, self_attention or DEFAULT_SELF_ATTENTION)
    for model in _softmax_models(models):
        if self_attention is not None:
            _set_self_attention(model, self_attention)
        if backend is not None:
            model.decoder.__dict__["el_backend"] = backend
    return models


def _enable(model: Any, backend: str, self_attention: str) -> None:
    for attention in cross_attentions(model).values():
        # stock leaves the last beam size in place, which breaks its own scoring
        _shadow(attention, replaced_class=type(attention), beam_size=1)
        attention.__class__ = ELCrossAttention
    for attention in self_attentions(model).values():
        _shadow(attention, replaced_class=type(attention))
    if not is_decoder_only(model):
        encode = functools.partial(_checked_encoding, model.encoder)
        _shadow(model.encoder, reorder_encoder_out=share_encoder_out, forward_torchscript=encode)
    _shadow(
        model.decoder,
        forward=functools.partial(shared_forward, model.decoder),
        reorder_incremental_state=functools.partial(reorder_shared_state, model.decoder),
        el_backend=backend,
    )
    if hasattr(model, "set_beam_size"):
        _shadow(model, set_beam_size=_ignore_beam_size)
    _set_self_attention(model, self_attention)
    logger.info(
        "EL-attention enabled in %d cross-attention modules (%s) and %d self-attention modules (%s) of %s",
        len(cross_attentions(model)),
        backend,
        len(self_attentions(model)),
        self_attention,
        type(model).__name__,
    )


def _set_self_attention(model: Any, self_attention: str) -> None:
    for attention in self_attentions(model).values():
        attention.__class__ = SELF_ATTENTION[self_attention]


def disable_el_attention(models: Models) -> Models:
    """Does :func:`fairseq_el.disable_el_attention`, but of a hub interface changes only the models."""
    for model in models_in(models):
        if not is_el_model(model):
            continue
        for attention in [*cross_attentions(model).values(), *self_attentions(model).values()]:
            attention.__class__ = attention.replaced_class
            _unshadow(attention)
        for module in [model.decoder, model, *([] if is_decoder_only(model) else [model.encoder])]:
            _unshadow(module)
    return models


def el_attention_enabled(models: Any) -> bool:
    """Returns whether a model, or every model of an ensemble or hub interface, decodes with EL-attention."""
    return all(is_el_model(model) for model in models_in(models))


def backend_of(model: Any) -> str:
    """The backend of cross-attention in a model with EL-attention enabled: ``"el"``, ``"shared-kv"`` or ``"auto"``."""
    backend: str = model.decoder.__dict__["el_backend"]
    return backend


def self_attention_of(model: Any) -> str:
    """The kind of decoder self-attention in a model with EL-attention enabled: ``"el"`` or ``"kv"``."""
    (kind,) = {type(attention) for attention in self_attentions(model).values()}
    return next(name for name, known in SELF_ATTENTION.items() if known is kind)


def models_in(models: Any) -> List[Any]:
    """The models of a list or a hub interface; a single model gives a list of itself."""
    if isinstance(models, (list, tuple, nn.ModuleList)):
        return list(models)
    if isinstance(getattr(models, "models", None), (list, tuple, nn.ModuleList)):  # a hub interface, an EnsembleModel
        return list(models.models)
    return [models]


def _softmax_models(models: Any) -> List[Any]:
    """The models with softmax attention. Linear attention keeps sums, which do not grow and which beams can't share."""
    return [model for model in models_in(models) if not has_linear_attention(getattr(model, "decoder", None))]


def is_el_model(model: Any) -> bool:
    """Returns whether this one model decodes with EL-attention; False for an ensemble or a hub interface."""
    return "el_backend" in getattr(getattr(model, "decoder", None), "__dict__", {})


def _shadow(module: nn.Module, **attributes: Any) -> None:
    """Sets attributes on the instance and remembers those it had itself."""
    own = {name: module.__dict__[name] for name in attributes if name in module.__dict__}
    module.__dict__[_SAVED] = (tuple(attributes), own)
    module.__dict__.update(attributes)


def _unshadow(module: nn.Module) -> None:
    names, own = module.__dict__.pop(_SAVED, ((), {}))
    for name in names:
        module.__dict__.pop(name, None)
    module.__dict__.update(own)


def _checked_encoding(encoder: Any, net_input: Any) -> Any:
    """Stands in for ``encoder.forward_torchscript``, with which every generator of fairseq begins to decode."""
    check_input(net_input)
    return type(encoder).forward_torchscript(encoder, net_input)


def _ignore_beam_size(beam_size: int) -> None:
    """Stands in for stock BART's ``set_beam_size``: EL-attention reads the beam size off each batch."""
