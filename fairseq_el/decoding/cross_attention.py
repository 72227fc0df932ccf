"""fairseq's encoder-decoder attention, computed from the encoder's output instead of cached keys and values."""

from __future__ import annotations

from typing import Any, Dict, Optional, Tuple

import torch
from torch import Tensor

from fairseq_el.decoding.decode_state import DecodeState
from fairseq_el.ops import el_attention, kv_attention, topk_attention, topk_el_attention
from fairseq_el.policy import PROJECTED_AT_ONCE, sentences_at_once
from fairseq_el.topk.multihead_attention import TopkMultiheadAttention
from fairseq_el.topk.settings import topk_of


class ELMultiheadAttention(TopkMultiheadAttention):
    """Encoder-decoder attention over an encoder output that beams share.

    It has the parameters of fairseq's :class:`~fairseq.modules.MultiheadAttention` and nothing beside them: weights
    are read where they are at every step, so nothing can go stale. While decoding it runs :func:`el_attention` and
    keeps nothing; or, where the :class:`DecodeState` of the batch says ``"shared-kv"``, :func:`kv_attention` over keys
    and values that this state keeps once per sentence. In training and scoring it is stock attention. Where Top-k
    attention is enabled, all of it is over the k largest scores of a query.
    """

    def forward(
        self,
        query: Tensor,
        key: Optional[Tensor],
        value: Optional[Tensor],
        key_padding_mask: Optional[Tensor] = None,
        incremental_state: Optional[Dict[str, Any]] = None,
        need_weights: bool = True,
        static_kv: bool = False,
        attn_mask: Optional[Tensor] = None,
        before_softmax: bool = False,
        need_head_weights: bool = False,
    ) -> Tuple[Tensor, Optional[Tensor]]:
        """As stock, with the encoder's output not expanded to beams.

        Args:
            query: ``b`` beams of ``B`` sentences, beams of a sentence side by side. *Shape:* ``(t, B * b, d_model)``.
            key: the encoder's output, ``B`` sentences. *Shape:* ``(n, B, d)``.
            value: the same tensor as ``key``.
            key_padding_mask: True at padding. *Shape:* ``(B, n)``.
            incremental_state: given while decoding.
            need_weights, need_head_weights: return the weights, averaged over heads or for each head.

        Returns:
            the output, ``(t, B * b, d_model)``, and the weights: None, ``(B * b, t, n)``, or ``(h, B * b, t, n)``.

        Raises:
            ValueError: the number of queries is not a multiple of the number of sentences.
        """
        if incremental_state is None and (key is None or key.size(1) == query.size(1)):
            return super().forward(
                query,
                key,
                value,
                key_padding_mask=key_padding_mask,
                need_weights=need_weights,
                static_kv=static_kv,
                attn_mask=attn_mask,
                before_softmax=before_softmax,
                need_head_weights=need_head_weights,
            )
        if key is None or attn_mask is not None or before_softmax:
            raise ValueError(
                "EL-attention decodes from the encoder's output: key must be given, attn_mask and before_softmax not; "
                f"got key {'missing' if key is None else 'given'}, attn_mask "
                f"{'missing' if attn_mask is None else 'given'}, before_softmax={before_softmax}"
            )
        tgt_len, num_rows, width = query.shape
        src_len, num_sentences, _ = key.shape
        if num_rows % num_sentences != 0:
            raise ValueError(
                f"EL-attention needs the same number of beams for every sentence, but there are {num_rows} queries for "
                f"{num_sentences} encoder outputs. Pass the encoder's output once per sentence, beams side by side."
            )
        x = query.transpose(0, 1).reshape(num_sentences, -1, width)  # (t, B*b, d) -> (B, b*t, d)
        state = DecodeState.of(incremental_state)
        output, weights = self.attend(
            x, key.transpose(0, 1), key_padding_mask, state, need_weights=need_weights or need_head_weights
        )
        output = output.reshape(num_rows, tgt_len, -1).transpose(0, 1)  # (B, b*t, d) -> (t, B*b, d)
        if weights is None:
            return output, None
        weights = weights.view(num_rows, tgt_len, self.num_heads, src_len).permute(2, 0, 1, 3)
        return output, weights if need_head_weights else weights.mean(dim=0)

    def attend(
        self,
        x: Tensor,
        memory: Tensor,
        key_padding_mask: Optional[Tensor],
        state: Optional[DecodeState],
        need_weights: bool,
    ) -> Tuple[Tensor, Optional[Tensor]]:
        """Queries that share an encoder output: the beams of a step, or the words of a prompt.

        Args:
            x: *Shape:* ``(B, queries, d_model)``.
            memory: the encoder's output. *Shape:* ``(B, n, d)``.
            key_padding_mask: True at padding. *Shape:* ``(B, n)``.
            state: of the batch, if its past is shared.

        Returns:
            the output, ``(B, queries, d_model)``, and the weights ``(B, queries, h, n)`` or None.
        """
        query = self.q_proj(x) if state is None else state.linears(self.q_proj, x)
        query = query.view(*x.shape[:2], self.num_heads, self.head_dim)
        padding = None if key_padding_mask is None else key_padding_mask.to(torch.bool)
        weights = None
        if state is not None and state.backend == "shared-kv" and not need_weights:
            key, value = state.source_keys_values(self._incremental_state_id, lambda: self._project(memory))
            heads = self._over_keys_values(query, key, value, padding, state)
        else:
            heads, weights = self._over_memory(query * self.scaling, memory, padding, need_weights)
        heads = heads.reshape(*x.shape[:2], -1)  # (B, queries, h, dh) -> (B, queries, h*dh)
        return (self.out_proj(heads) if state is None else state.linears(self.out_proj, heads)), weights

    def _over_memory(
        self, query: Tensor, memory: Tensor, padding: Optional[Tensor], need_weights: bool
    ) -> Tuple[Tensor, Optional[Tensor]]:
        """EL-attention: ``query`` ``(B, queries, h, dh)``, scaled, to the heads' outputs and the weights or None."""
        topk = topk_of(self, memory.size(1))
        options = {
            "key_bias": self.k_proj.bias,
            "value_bias": self.v_proj.bias,
            "key_padding_mask": padding,
            "dropout": self.dropout_module if self._dropout_is_active() else None,
            "need_weights": need_weights,
        }
        weights = (self.k_proj.weight, self.v_proj.weight)
        if topk is not None:
            return topk_el_attention(query, memory, *weights, topk.k, **options)
        return el_attention(
            query, memory, *weights, softmax_dtype=torch.float32, **options
        )  # as stock, for every dtype

    def _over_keys_values(
        self, query: Tensor, key: Tensor, value: Tensor, padding: Optional[Tensor], state: DecodeState
    ) -> Tensor:
        """``query`` ``(B, queries, h, dh)`` over ``(B, h, n, dh)`` to the heads' outputs, shaped as ``query``."""
        topk = topk_of(self, key.size(2))
        if topk is None:
            mask = state.current.attn_mask(padding, query.dtype)
            mask = None if mask is None else mask.unsqueeze(1)  # (B, n) -> (B, 1, n)
            return kv_attention(query, key, value, mask, torch.float32, scale=self.scaling)
        scaled = (query * self.scaling).transpose(1, 2)  # (B, queries, h, dh) -> (B, h, queries, dh)
        heads = topk_attention(scaled, key, value, topk.k, key_padding_mask=padding, query_chunk=topk.query_chunk)
        return heads.transpose(1, 2)

    def _project(self, memory: Tensor) -> Tuple[Tensor, Tensor]:
        """``(B, n, d)`` to keys and values ``(B, h, n, dh)``, each head's contiguous."""
        num_sentences, src_len, _ = memory.shape
        shape = (num_sentences, self.num_heads, src_len, self.head_dim)
        key, value = memory.new_empty(shape), memory.new_empty(shape)
        part_size = sentences_at_once(PROJECTED_AT_ONCE, src_len)
        for begin in range(0, num_sentences, part_size):
            part = slice(begin, begin + part_size)
            for module, heads in ((self.k_proj, key), (self.v_proj, value)):
                projected = module(memory[part])  # (B', n, h*dh) -> (B', h, n, dh)
                heads[part] = projected.view(-1, src_len, *shape[1::2]).transpose(1, 2)
        return key, value

    def set_beam_size(self, beam_size: int) -> None:
        """Does nothing: the beam size is read off each batch, so it can't be out of date."""
