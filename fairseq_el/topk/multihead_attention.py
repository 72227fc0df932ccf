"""fairseq's multi-head attention over the k largest scores of every query."""

from __future__ import annotations

from typing import Any, Dict, Optional, Tuple

import torch
from fairseq.modules import MultiheadAttention
from torch import Tensor

from fairseq_el.ops import keep_largest, topk_attention
from fairseq_el.topk.settings import TopkAttentionSettings, topk_of


class TopkMultiheadAttention(MultiheadAttention):
    """Top-k attention where :func:`~fairseq_el.topk.settings.set_topk` asked for it, and stock attention elsewhere.

    It has the parameters of fairseq's :class:`~fairseq.modules.MultiheadAttention` and nothing beside them.
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
        """As stock. While training it returns no weights: all of them would be ``t x n``, which top-k avoids.

        Out of training, cross-attention that is asked for its weights, as fairseq's decoder does, makes all scores.

        Args:
            query: *Shape:* ``(t, B, d)``.
            key: *Shape:* ``(n, B, d)``.
            value: the same tensor as ``key``.
            key_padding_mask: True at padding. *Shape:* ``(B, n)``.
            attn_mask: added to the scores. *Shape:* ``(t, n)``.
        """
        topk = topk_of(self, None if key is None or incremental_state is not None else key.size(0))
        masks = {"key_padding_mask": key_padding_mask, "attn_mask": attn_mask}
        need_weights = need_weights or need_head_weights
        if topk is None or before_softmax:
            return super().forward(
                query,
                key,
                value,
                incremental_state=incremental_state,
                need_weights=need_weights,
                static_kv=static_kv,
                before_softmax=before_softmax,
                need_head_weights=need_head_weights,
                **masks,
            )
        need_weights = need_weights and not self.training
        if incremental_state is None and not need_weights:
            assert key is not None, "keys are given where nothing is cached"
            return self._in_parallel(query, key, key_padding_mask, attn_mask, topk), None
        static_kv = static_kv or incremental_state is None  # with neither, stock would not stop before the softmax
        scores, values = super().forward(
            query, key, value, incremental_state=incremental_state, static_kv=static_kv, before_softmax=True, **masks
        )
        at_least = torch.promote_types(scores.dtype, torch.float32)
        weights = torch.softmax(keep_largest(scores, topk.k), dim=-1, dtype=at_least)  # (B*h, t, n)
        tgt_len, rows, _ = query.shape
        heads = self._sum_of_values(self.dropout_module(weights.to(values.dtype)), values)
        output = self.out_proj(heads.transpose(0, 1).reshape(tgt_len, rows, -1))
        if not need_weights:
            return output, None
        weights = weights.view(rows, self.num_heads, tgt_len, -1).transpose(0, 1)  # (B*h, t, n) -> (h, B, t, n)
        return output, weights if need_head_weights else weights.mean(dim=0)

    def _sum_of_values(self, probs: Tensor, values: Tensor) -> Tensor:
        """``(B*h, t, n)`` and stock's values ``(B'*h, n, dh)``, BART's once for all beams, to ``(B*h, t, dh)``."""
        of_sentences = values.view(-1, self.num_heads, *values.shape[1:])
        of_beams = probs.view(len(of_sentences), -1, self.num_heads, *probs.shape[1:])
        return torch.einsum("sbhtn,shnd->sbhtd", of_beams, of_sentences).reshape(*probs.shape[:2], -1)

    def _in_parallel(
        self,
        query: Tensor,
        key: Tensor,
        key_padding_mask: Optional[Tensor],
        attn_mask: Optional[Tensor],
        topk: TopkAttentionSettings,
    ) -> Tensor:
        """All queries of a sequence, in chunks; for training and whatever else has no cache."""
        tgt_len, rows, _ = query.shape
        projected = (self.q_proj(query) * self.scaling, self.k_proj(key), self.v_proj(key))
        shape = (rows, self.num_heads, self.head_dim)
        q, k, v = (x.view(-1, *shape).permute(1, 2, 0, 3) for x in projected)  # (t, B, h*dh) -> (B, h, t, dh)
        causal = topk.causal and attn_mask is not None
        heads = topk_attention(
            q,
            k,
            v,
            topk.k,
            key_padding_mask=None if key_padding_mask is None else key_padding_mask.to(torch.bool),
            attn_mask=None if causal else attn_mask,
            causal=causal,
            query_chunk=topk.query_chunk,
            dropout=self.dropout_module.p if self._dropout_is_active() else 0.0,
        )
        return self.out_proj(heads.permute(2, 0, 1, 3).reshape(tgt_len, rows, -1))  # (B, h, t, dh) -> (t, B, h*dh)

    def _dropout_is_active(self) -> bool:
        module = self.dropout_module
        return bool(module.p > 0 and (module.training or module.apply_during_inference))
