"""fairseq's multi-head attention over the k largest scores of every query."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Dict, Optional, Tuple

import torch
from fairseq.modules import MultiheadAttention
from torch import Tensor

from fairseq_el.decoding import ScoreLimit, drops_out
from fairseq_el.ops import keep_largest, topk_attention

_SETTINGS = "score_limit"  # attribute of a module, which EL-attention's modules read too


@dataclass(frozen=True)
class TopkAttentionSettings(ScoreLimit):
    """The settings of one attention module.

    Attributes:
        causal: it is a decoder's self-attention; the only mask that fairseq gives it hides the future.
    """

    causal: bool = False


def topk_of(attention: MultiheadAttention, num_keys: Optional[int] = None) -> Optional[TopkAttentionSettings]:
    """The settings of an attention module; None where it is ordinary, as with no more than ``k`` keys."""
    settings: Optional[TopkAttentionSettings] = attention.__dict__.get(_SETTINGS)
    return None if settings is None or (num_keys is not None and num_keys <= settings.k) else settings


def set_topk(attention: MultiheadAttention, settings: Optional[TopkAttentionSettings]) -> None:
    """Gives an attention module settings, or takes them away."""
    if settings is None:
        attention.__dict__.pop(_SETTINGS, None)
    else:
        attention.__dict__[_SETTINGS] = settings


class TopkMultiheadAttention(MultiheadAttention):
    """Top-k attention with the settings of :func:`set_topk`; stock attention without settings.

    It has the parameters of fairseq's :class:`~fairseq.modules.MultiheadAttention` and nothing beside them. Where
    EL-attention is enabled, a module has another class, which calls ``TopkMultiheadAttention.forward(module, ...)``
    for training and scoring: so it uses only attributes that every attention module has.
    """

    el_can_replace = True  # decoding reads ``score_limit``

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
        """Attends as stock, to the k largest scores.

        While training it returns no weights: all of them would be ``t x n``, which Top-k avoids. Out of training,
        cross-attention that is asked for its weights, as fairseq's decoder does, makes all scores.

        Args:
            query: *Shape:* ``(t, B, d)``.
            key: *Shape:* ``(n, B, d)``.
            value: the same tensor as ``key``.
            key_padding_mask: True at padding. *Shape:* ``(B, n)``.
            attn_mask: added to the scores. *Shape:* ``(t, n)``; or ``(1, 1)`` for the causal mask
                (:mod:`fairseq_el.topk.causal_mask`).

        Returns:
            the output, ``(t, B, d)``, and the weights: None, ``(B, t, n)``, or ``(h, B, t, n)``.
        """
        topk = topk_of(self, None if key is None or incremental_state is not None else key.size(0))
        need_weights = need_weights or need_head_weights
        in_chunks = incremental_state is None and (self.training or not need_weights)
        if topk is not None and in_chunks and not before_softmax:
            assert key is not None, "keys are given where nothing is cached"
            return _attend_in_parallel(self, query, key, key_padding_mask, attn_mask, topk), None
        masks = {"key_padding_mask": key_padding_mask, "attn_mask": _whole_mask(attn_mask, query)}
        if topk is None or before_softmax:
            return MultiheadAttention.forward(
                self,
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
        static_kv = static_kv or incremental_state is None  # with neither, stock would not stop before the softmax
        scores, values = MultiheadAttention.forward(
            self,
            query,
            key,
            value,
            incremental_state=incremental_state,
            static_kv=static_kv,
            before_softmax=True,
            **masks,
        )
        at_least = torch.promote_types(scores.dtype, torch.float32)
        weights = torch.softmax(keep_largest(scores, topk.k), dim=-1, dtype=at_least)  # (B*h, t, n)
        tgt_len, rows, _ = query.shape
        heads = _sum_of_values(self.dropout_module(weights.to(values.dtype)), values, self.num_heads)
        output = self.out_proj(heads.transpose(0, 1).reshape(tgt_len, rows, -1))  # (B*h, t, dh) -> (t, B, h*dh)
        if not need_weights:
            return output, None
        weights = weights.view(rows, self.num_heads, tgt_len, -1).transpose(0, 1)  # (B*h, t, n) -> (h, B, t, n)
        return output, weights if need_head_weights else weights.mean(dim=0)


def _whole_mask(attn_mask: Optional[Tensor], query: Tensor) -> Optional[Tensor]:
    """Returns the mask as stock attention takes it: ``(t, t)`` where one number stands for the causal mask."""
    num_queries = query.size(0)
    if attn_mask is None or attn_mask.shape != (1, 1) or num_queries == 1:
        return attn_mask
    return attn_mask.expand(num_queries, num_queries).triu(1)


def _sum_of_values(probs: Tensor, values: Tensor, num_heads: int) -> Tensor:
    """Weighted sums of stock's values, which BART has once for all beams.

    *Shapes:* weights ``(B*h, t, n)`` and values ``(B'*h, n, dh)`` to ``(B*h, t, dh)``.
    """
    of_sentences = values.view(-1, num_heads, *values.shape[1:])
    of_beams = probs.view(len(of_sentences), -1, num_heads, *probs.shape[1:])
    return torch.einsum("sbhtn,shnd->sbhtd", of_beams, of_sentences).reshape(*probs.shape[:2], -1)


def _attend_in_parallel(
    attention: MultiheadAttention,
    query: Tensor,
    key: Tensor,
    key_padding_mask: Optional[Tensor],
    attn_mask: Optional[Tensor],
    topk: TopkAttentionSettings,
) -> Tensor:
    """Attends with all queries of a sequence, in chunks: in training, and wherever nothing is cached."""
    tgt_len, rows, _ = query.shape
    projected = (attention.q_proj(query) * attention.scaling, attention.k_proj(key), attention.v_proj(key))
    shape = (rows, attention.num_heads, attention.head_dim)
    q, k, v = (x.view(-1, *shape).permute(1, 2, 0, 3) for x in projected)  # (t, B, h*dh) -> (B, h, t, dh)
    causal = topk.causal and attn_mask is not None
    dropout = attention.dropout_module
    heads = topk_attention(
        q,
        k,
        v,
        topk.k,
        key_padding_mask=None if key_padding_mask is None else key_padding_mask.to(torch.bool),
        attn_mask=None if causal else attn_mask,
        causal=causal,
        query_chunk=topk.query_chunk,
        dropout=dropout.p if drops_out(dropout) else 0.0,
    )
    return attention.out_proj(heads.permute(2, 0, 1, 3).reshape(tgt_len, rows, -1))  # (B, h, t, dh) -> (t, B, h*dh)
