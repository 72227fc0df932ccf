"""fairseq's encoder-decoder attention, computed from the encoder's output instead of cached keys and values."""

from __future__ import annotations

from typing import Dict, Optional, Tuple

import torch
from fairseq.modules import MultiheadAttention
from torch import Tensor

from fairseq_el.ops import el_attention


class ELMultiheadAttention(MultiheadAttention):
    """Encoder-decoder attention that keeps nothing in the incremental state.

    It has the parameters of fairseq's :class:`~fairseq.modules.MultiheadAttention` and nothing beside them: weights
    are read where they are at every step, so nothing can go stale. While decoding it runs :func:`el_attention` over an
    encoder output shared by the beams; in training and scoring it is stock attention.
    """

    def forward(
        self,
        query: Tensor,
        key: Optional[Tensor],
        value: Optional[Tensor],
        key_padding_mask: Optional[Tensor] = None,
        incremental_state: Optional[Dict[str, Dict[str, Optional[Tensor]]]] = None,
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
            incremental_state: given while decoding; nothing is stored in it.
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
        output, weights = self._attend(query, key.transpose(0, 1), key_padding_mask)
        if not (need_weights or need_head_weights):
            return output, None
        return output, weights if need_head_weights else weights.mean(dim=0)

    def _attend(self, query: Tensor, memory: Tensor, key_padding_mask: Optional[Tensor]) -> Tuple[Tensor, Tensor]:
        """``query`` ``(t, B * b, d_model)``, ``memory`` ``(B, n, d)`` to output and weights ``(h, B * b, t, n)``."""
        tgt_len, num_rows, _ = query.shape
        num_sentences, src_len, _ = memory.shape
        if num_rows % num_sentences != 0:
            raise ValueError(
                f"EL-attention needs the same number of beams for every sentence, but there are {num_rows} queries for "
                f"{num_sentences} encoder outputs. Pass the encoder's output once per sentence, beams side by side."
            )
        q = self.q_proj(query) * self.scaling
        # (t, B*b, h*dh) -> (B, b*t, h, dh)
        q = q.transpose(0, 1).reshape(num_sentences, -1, self.num_heads, self.head_dim)
        output, weights = el_attention(
            q,
            memory,
            self.k_proj.weight,
            self.v_proj.weight,
            key_bias=self.k_proj.bias,
            value_bias=self.v_proj.bias,
            key_padding_mask=None if key_padding_mask is None else key_padding_mask.to(torch.bool),
            softmax_dtype=torch.float32,  # as stock, for every dtype
            dropout=self.dropout_module if self._dropout_is_active() else None,
        )
        output = output.reshape(num_rows, tgt_len, -1).transpose(0, 1)  # (B, b*t, h, dh) -> (t, B*b, h*dh)
        weights = weights.view(num_rows, tgt_len, self.num_heads, src_len).permute(2, 0, 1, 3)
        return self.out_proj(output), weights

    def _dropout_is_active(self) -> bool:
        module = self.dropout_module
        return bool(module.p > 0 and (module.training or module.apply_during_inference))

    def set_beam_size(self, beam_size: int) -> None:
        """Does nothing: the beam size is read off each batch, so it can't be out of date."""
