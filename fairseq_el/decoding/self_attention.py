"""Decoder self-attention over the nodes of a :class:`DecodeState` instead of a cache per beam."""

from __future__ import annotations

from typing import Any, Dict, Optional, Tuple

import torch
from torch import Tensor

from fairseq_el.decoding.decode_state import DecodeState
from fairseq_el.ops import el_attention, kv_attention, topk_attention, topk_el_attention
from fairseq_el.topk.multihead_attention import TopkMultiheadAttention
from fairseq_el.topk.settings import topk_of


class SharedSelfAttention(TopkMultiheadAttention):
    """fairseq's self-attention, decoding over a past that beams share. Subclasses say what a node is.

    It has the parameters of fairseq's :class:`~fairseq.modules.MultiheadAttention` and nothing beside them. Without a
    :class:`DecodeState` in the incremental state (in training, scoring, and generators that keep none) it is stock.
    """

    def forward(
        self,
        query: Tensor,
        key: Optional[Tensor],
        value: Optional[Tensor],
        key_padding_mask: Optional[Tensor] = None,
        incremental_state: Optional[Dict[str, Any]] = None,
        *more: Any,
        **options: Any,
    ) -> Tuple[Tensor, Optional[Tensor]]:
        """As stock; with a decode state, one pass of a step or of a prompt.

        Args:
            query: in a step, one word of ``b`` beams of ``B`` sentences, beams of a sentence side by side; in a prompt,
                the words of ``B`` sentences. *Shape:* ``(1, B * b, d)`` or ``(t, B, d)``.

        Returns:
            the output, shaped as ``query``, and None: fairseq's decoder layers ask for no weights.
        """
        state = DecodeState.of(incremental_state)
        if state is None:
            return super().forward(query, key, value, key_padding_mask, incremental_state, *more, **options)
        tgt_len, num_rows, width = query.shape
        num_sentences = num_rows if state.current.in_prompt else state.num_sentences
        x = query.transpose(0, 1).reshape(num_sentences, -1, width)  # (t, rows, d) -> (B, queries, d)
        output = self.attend(x, state)
        return output.reshape(num_rows, tgt_len, width).transpose(0, 1), None  # (B, queries, d) -> (t, rows, d)

    def attend(self, x: Tensor, state: DecodeState) -> Tensor:
        """``x`` ``(B, queries, d)`` of a step (its beams) or a prompt (its words) to the output, shaped the same."""
        heads = self._prompt(x, state) if state.current.in_prompt else self._step(x, state)  # (B, queries, h, dh)
        return state.linears(self.out_proj, heads.reshape(x.shape))

    def _step(self, x: Tensor, state: DecodeState) -> Tensor:
        """``x`` ``(B, b, d)`` to the heads' outputs ``(B, b, h, dh)``."""
        raise NotImplementedError

    def _prompt(self, x: Tensor, state: DecodeState) -> Tensor:
        """``x`` ``(B, t, d)`` to the heads' outputs ``(B, t, h, dh)``: by keys and values, which is less work."""
        raise NotImplementedError

    def _over_keys_values(self, query: Tensor, key: Tensor, value: Tensor, state: DecodeState) -> Tensor:
        """``query`` ``(B, queries, h, dh)`` over ``(B, h, n, dh)`` to the heads' outputs, shaped as ``query``."""
        topk = topk_of(self, key.size(2))
        if topk is None:
            mask = state.current.attn_mask(state.current.hidden, query.dtype)
            return kv_attention(query, key, value, mask, torch.float32, scale=self.scaling)
        hidden = state.current.hidden
        mask = None if hidden is None else hidden.unsqueeze(1)  # for all heads
        scaled = (query * self.scaling).transpose(1, 2)  # (B, queries, h, dh) -> (B, h, queries, dh)
        heads = topk_attention(scaled, key, value, topk.k, attn_mask=mask, query_chunk=topk.query_chunk)
        return heads.transpose(1, 2)

    def reorder_incremental_state(self, incremental_state: Any, new_order: Tensor) -> Any:
        """As stock; a decode state is reordered once for all layers, by the decoder."""
        if DecodeState.of(incremental_state) is not None:
            return incremental_state
        return super().reorder_incremental_state(incremental_state, new_order)


class ELSelfAttention(SharedSelfAttention):
    """Nodes are the layer's inputs, ``d`` numbers each: EL-attention, half of what keys and values take."""

    def _step(self, x: Tensor, state: DecodeState) -> Tensor:
        (pool,) = state.store(self._incremental_state_id, x.unsqueeze(1))
        memory = pool.squeeze(1)  # (B, 1, U, d) -> (B, U, d)
        query = (state.linears(self.q_proj, x) * self.scaling).view(*x.shape[:2], self.num_heads, self.head_dim)
        weights = (self.k_proj.weight, self.v_proj.weight)
        options = {
            "key_bias": self.k_proj.bias,
            "value_bias": self.v_proj.bias,
            "attn_mask": state.current.hidden,
            "need_weights": False,
        }
        topk = topk_of(self, memory.size(1))
        if topk is not None:
            return topk_el_attention(query, memory, *weights, topk.k, **options)[0]
        return el_attention(query, memory, *weights, softmax_dtype=torch.float32, **options)[0]  # as stock

    def _prompt(self, x: Tensor, state: DecodeState) -> Tensor:
        state.store(self._incremental_state_id, x.unsqueeze(1))
        projected = (state.linears(self.q_proj, x), self.k_proj(x), self.v_proj(x))
        query, key, value = (y.view(*x.shape[:2], self.num_heads, self.head_dim) for y in projected)
        return self._over_keys_values(query, key.transpose(1, 2), value.transpose(1, 2), state)


class KVSelfAttention(SharedSelfAttention):
    """Nodes are keys and values, ``2 d`` numbers each: multi-head attention, with less arithmetic."""

    def _step(self, x: Tensor, state: DecodeState) -> Tensor:
        query, *nodes = self._queries_keys_values(x, state)
        key, value = state.store(self._incremental_state_id, *nodes)
        return self._over_keys_values(query, key, value, state)

    def _prompt(self, x: Tensor, state: DecodeState) -> Tensor:
        return self._step(x, state)  # the prompt is the whole past

    def _queries_keys_values(self, x: Tensor, state: DecodeState) -> Tuple[Tensor, Tensor, Tensor]:
        """``(B, queries, d)`` to queries ``(B, queries, h, dh)``, keys and values ``(B, h, queries, dh)``."""
        shape = (*x.shape[:2], self.num_heads, self.head_dim)
        query, key, value = state.linears.project_together((self.q_proj, self.k_proj, self.v_proj), x)
        return query.view(shape), key.view(shape).transpose(1, 2), value.view(shape).transpose(1, 2)


SELF_ATTENTION = {"el": ELSelfAttention, "kv": KVSelfAttention}
