"""fairseq's Transformer layers for inference, batch first, over a :class:`DecodeState`.

They compute what stock's layers do and leave out what inference has no use for: nothing is transposed between modules,
linear layers come from :class:`Linears`, and activations are not taken through float32 by hand. Layers with anything
else in them (extra norms of NormFormer, adapters, hooks, active dropout) are left to stock:
:func:`is_plain_decoder_layer`.
"""

from __future__ import annotations

from typing import Any, Optional, Tuple

from fairseq.modules import FairseqDropout, MultiheadAttention
from fairseq.modules.transformer_layer import (
    TransformerDecoderLayer,
    TransformerDecoderLayerBase,
    TransformerEncoderLayer,
    TransformerEncoderLayerBase,
)
from torch import Tensor, nn

from fairseq_el.decoding.decode_state import DecodeState
from fairseq_el.decoding.linears import Linears, has_hooks, is_plain_linear
from fairseq_el.ops import kv_attention

_EXTRAS = ("c_attn", "attn_ln", "ffn_layernorm", "w_resid")


def is_plain_decoder_layer(layer: nn.Module) -> bool:
    """Returns whether :func:`run_decoder_layer` computes what the layer does."""
    return (
        type(layer) in (TransformerDecoderLayer, TransformerDecoderLayerBase)
        and all(getattr(layer, name, None) is None for name in _EXTRAS)
        and _calls_nothing_else(layer)
    )


def is_plain_encoder_layer(layer: Any) -> bool:
    """Returns whether :func:`run_encoder_layer` computes what the layer does."""
    return (
        type(layer) in (TransformerEncoderLayer, TransformerEncoderLayerBase)
        and type(layer.self_attn) is MultiheadAttention
        and all(is_plain_linear(m) for m in (layer.self_attn.q_proj, layer.self_attn.k_proj, layer.self_attn.v_proj))
        and layer.self_attn.bias_k is None
        and not (layer.self_attn.add_zero_attn or layer.self_attn.use_xformers or layer.return_fc)
        and _calls_nothing_else(layer)
    )


def _calls_nothing_else(layer: nn.Module) -> bool:
    return not any(has_hooks(module) or drops_out(module) for module in layer.modules())


def drops_out(module: nn.Module) -> bool:
    """Returns whether a module is dropout that draws random numbers now."""
    return isinstance(module, FairseqDropout) and module.p > 0 and (module.training or module.apply_during_inference)


def has_active_dropout(module: nn.Module) -> bool:
    return any(drops_out(m) for m in module.modules())


def run_decoder_layer(
    layer: Any,
    x: Tensor,
    memory: Optional[Tensor],
    padding_mask: Optional[Tensor],
    state: DecodeState,
    need_attn: bool,
) -> Tuple[Tensor, Optional[Tensor]]:
    """One decoder layer over the beams of a step or the words of prompts.

    Args:
        x: *Shape:* ``(B, queries, d)``.
        memory: the encoder's output, ``(B, n, d)``, or None in a language model.
        padding_mask: True at padding. *Shape:* ``(B, n)``.

    Returns:
        the output, shaped as ``x``, and encoder-decoder attention weights ``(B, queries, h, n)`` or None.
    """
    pre_norm, attn = layer.normalize_before, None
    y = layer.self_attn.attend(layer.self_attn_layer_norm(x) if pre_norm else x, state)
    x = x + y if pre_norm else layer.self_attn_layer_norm(x + y)
    if layer.encoder_attn is not None and memory is not None:
        y = layer.encoder_attn_layer_norm(x) if pre_norm else x
        y, attn = layer.encoder_attn.attend(y, memory, padding_mask, state, need_attn)
        x = x + y if pre_norm else layer.encoder_attn_layer_norm(x + y)
    return _feed_forward(layer, x, state.linears), attn


def run_encoder_layer(layer: Any, x: Tensor, attn_mask: Optional[Tensor], linears: Linears) -> Tensor:
    """One encoder layer.

    Args:
        x: *Shape:* ``(B, n, d)``.
        attn_mask: the mask of padding, as :func:`kv_attention` takes it. *Shape:* ``(B, 1, n)``.
    """
    pre_norm = layer.normalize_before
    y = _attend_source(layer.self_attn, layer.self_attn_layer_norm(x) if pre_norm else x, attn_mask, linears)
    x = x + y if pre_norm else layer.self_attn_layer_norm(x + y)
    return _feed_forward(layer, x, linears)


def _attend_source(attention: Any, x: Tensor, attn_mask: Optional[Tensor], linears: Linears) -> Tensor:
    """Self-attention of the encoder, ``(B, n, d)`` to the same."""
    shape = (*x.shape[:2], attention.num_heads, attention.head_dim)
    query, key, value = linears.project_together((attention.q_proj, attention.k_proj, attention.v_proj), x)
    heads = kv_attention(
        query.view(shape),
        key.view(shape).transpose(1, 2),
        value.view(shape).transpose(1, 2),
        attn_mask,
        scale=attention.scaling,
    )
    return linears(attention.out_proj, heads.reshape(x.shape))


def _feed_forward(layer: Any, x: Tensor, linears: Linears) -> Tensor:
    y = layer.final_layer_norm(x) if layer.normalize_before else x
    y = linears(layer.fc2, linears(layer.fc1, y, layer.activation_fn))
    return x + y if layer.normalize_before else layer.final_layer_norm(x + y)
