"""Multi-head attention of many queries over keys and values that are kept once per sentence.

Symbols: ``B`` sentences, ``b`` queries that share a memory (beams, or the words of a prompt), ``h`` heads, ``dh`` width
of a head, ``n`` length of the memory.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fairseq_el.ops.masked_softmax import masked_softmax


def kv_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    softmax_dtype: torch.dtype | None = None,
) -> Tensor:
    """``softmax(q_i K_i^T) V_i`` (Vaswani et al. 2017, equation 1) with one set of keys and values per sentence.

    Two dense products per sentence and head, ``(b, dh) x (dh, n)`` and ``(b, n) x (n, dh)``; nothing is expanded to
    beams.

    Args:
        query: projected and scaled queries. *Shape:* ``(B, b, h, dh)``.
        key, value: *Shape:* ``(B, h, n, dh)``; a slice of longer storage will do.
        attn_mask: True where a position is hidden from one query. *Shape:* ``(B, b, n)``. Every query must see
            something.
        softmax_dtype: what the softmax is computed in (default: the dtype of the scores).

    Returns:
        the heads' outputs. *Shape:* ``(B, b, h, dh)``.
    """
    scores = torch.matmul(query.transpose(1, 2), key.transpose(2, 3))  # (B, h, b, dh) x (B, h, dh, n) -> (B, h, b, n)
    if attn_mask is None:
        weights = torch.softmax(scores, dim=-1, dtype=softmax_dtype)
    else:
        weights = masked_softmax(scores, attn_mask.unsqueeze(1), softmax_dtype)
    probs = weights.to(query.dtype)
    return torch.matmul(probs, value).transpose(1, 2)  # (B, h, b, n) x (B, h, n, dh) -> (B, b, h, dh)
