"""The causal mask of decoders whose self-attention is all Top-k: one number in the place of ``n x n``.

fairseq's decoder makes the mask, which is 16 GiB at 65,536 words in float32, and hands it to every layer. Top-k
attention hides the future chunk by chunk, and needs no more than to be told. A mask of one number tells it.
"""

from __future__ import annotations

from typing import Any, List, Optional

from fairseq.models.transformer import TransformerDecoderBase
from fairseq.modules import MultiheadAttention
from fairseq.modules.transformer_layer import TransformerDecoderLayerBase
from torch import Tensor

from fairseq_el.topk.multihead_attention import topk_of

_STOCK = ("extract_features", "extract_features_scriptable", "buffered_future_mask")
_MASK = "buffered_future_mask"


class FutureMask:
    """Stands in for ``decoder.buffered_future_mask``."""

    def __init__(self, decoder: Any, attentions: List[MultiheadAttention]):
        """``attentions``: self-attention of all layers."""
        self.decoder, self.attentions = decoder, attentions

    def __call__(self, x: Tensor) -> Tensor:
        """Returns one number, ``(1, 1)``; stock's mask ``(t, t)`` where no more than ``k`` words have to be hidden.

        Args:
            x: the input of the layers. *Shape:* ``(t, B, d)``.
        """
        if all(topk_of(attention, x.size(0)) is not None for attention in self.attentions):
            return x.new_full((1, 1), float("-inf"))
        mask: Tensor = type(self.decoder).buffered_future_mask(self.decoder, x)
        return mask


def spare_future_mask(model: Any) -> None:
    """Makes a decoder do without an ``n x n`` mask if it can, and lets it make fairseq's if not.

    Call it when the self-attention of a model has become Top-k or ordinary.
    """
    decoder = getattr(model, "decoder", None)
    if decoder is None:
        return
    if isinstance(decoder.__dict__.get(_MASK), FutureMask):
        del decoder.__dict__[_MASK]
    attentions = _self_attentions(decoder)
    if attentions and all(topk_of(attention) is not None for attention in attentions):
        decoder.__dict__[_MASK] = FutureMask(decoder, attentions)


def _self_attentions(decoder: Any) -> Optional[List[MultiheadAttention]]:
    """Self-attention of all layers; None if anything but that may look at the mask."""
    is_stock = isinstance(decoder, TransformerDecoderBase) and all(
        getattr(type(decoder), name) is getattr(TransformerDecoderBase, name) for name in _STOCK
    )
    if not is_stock or _MASK in decoder.__dict__ or decoder.cross_self_attention:
        return None
    layers = list(decoder.layers.children())  # a LayerDropModuleList draws random numbers when it is iterated over
    if any(getattr(type(layer), "forward", None) is not TransformerDecoderLayerBase.forward for layer in layers):
        return None
    return [layer.self_attn for layer in layers]
