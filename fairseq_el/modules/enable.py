"""Turning EL-attention on and off in a fairseq model, in place.

Parameters, buffers, hooks and the state dict are untouched: the attention modules change their class (as
``torch.nn.utils.parametrize`` does it), and two methods of the instance are shadowed (as stock BART's own
``set_beam_size`` does it with ``encoder.reorder_encoder_out``). What was there before is kept and put back.
"""

from __future__ import annotations

import logging
from typing import Any, Iterable, List, TypeVar

from fairseq.modules import MultiheadAttention
from torch import nn

from fairseq_el.errors import UnsupportedModelError
from fairseq_el.modules.el_multihead_attention import ELMultiheadAttention
from fairseq_el.modules.shared_encoder_out import share_encoder_out
from fairseq_el.modules.support import cross_attentions, unsupported_reasons

logger = logging.getLogger(__name__)

Models = TypeVar("Models")  # a model, a list of models, or a hub interface that holds some

_SAVED = "_el_saved_attributes"


def enable_el_attention(models: Models) -> Models:
    """Makes models decode with EL cross-attention, in place.

    They can be trained, saved, moved, converted to half precision and reloaded as before. Models that have it enabled
    already are left as they are.

    Args:
        models: a fairseq encoder-decoder model, a list of them (an ensemble), or a hub interface such as the one
            ``BARTModel.from_pretrained`` returns.

    Returns:
        ``models``.

    Raises:
        UnsupportedModelError: a model can't be decoded exactly; it lists every reason. No model has been changed.
    """
    to_enable = [model for model in _unpack(models) if not _is_enabled(model)]
    for model in to_enable:
        reasons = unsupported_reasons(model)
        if reasons:
            raise UnsupportedModelError(type(model).__name__, reasons)
    for model in to_enable:
        attentions = cross_attentions(model).values()
        for attention in attentions:
            _shadow(attention, beam_size=1)  # stock leaves the last beam size in place, which breaks its own scoring
            attention.__class__ = ELMultiheadAttention
        _shadow(model.encoder, reorder_encoder_out=share_encoder_out)
        if hasattr(model, "set_beam_size"):
            _shadow(model, set_beam_size=_ignore_beam_size)
        logger.info("EL-attention enabled in %d cross-attention modules of %s", len(attentions), type(model).__name__)
    return models


def disable_el_attention(models: Models) -> Models:
    """Puts models back exactly as :func:`enable_el_attention` found them. Others are left as they are."""
    for model in _unpack(models):
        if not _is_enabled(model):
            continue
        for attention in cross_attentions(model).values():
            attention.__class__ = MultiheadAttention
            _unshadow(attention)
        _unshadow(model.encoder)
        _unshadow(model)
    return models


def el_attention_enabled(models: Any) -> bool:
    """Whether a model (or every model of an ensemble or hub interface) decodes with EL cross-attention."""
    return all(_is_enabled(model) for model in _unpack(models))


def _unpack(models: Any) -> List[Any]:
    if isinstance(models, (list, tuple, nn.ModuleList)):
        return list(models)
    if isinstance(getattr(models, "models", None), (list, tuple, nn.ModuleList)):  # a hub interface, an EnsembleModel
        return list(models.models)
    return [models]


def _is_enabled(model: Any) -> bool:
    attentions: Iterable[MultiheadAttention] = cross_attentions(model).values()
    return any(isinstance(attention, ELMultiheadAttention) for attention in attentions)


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


def _ignore_beam_size(beam_size: int) -> None:
    """Stands in for stock BART's ``set_beam_size``: EL-attention reads the beam size off each batch."""
