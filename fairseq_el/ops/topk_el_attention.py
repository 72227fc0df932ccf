"""EL-attention over the k largest scores of every query: the other rows of the memory are not read again.

Gupta et al. 2021 (arXiv 2106.06899) for the k largest, Yan et al. 2021 (arXiv 2105.04779) for the expanded query; see
:mod:`fairseq_el.ops.el_attention` for its equations and symbols.
"""

from __future__ import annotations

from typing import Callable

import torch
from torch import Tensor

from fairseq_el.ops.el_attention import expanded_scores, output_of_context
from fairseq_el.ops.selected_rows import sum_of_rows
from fairseq_el.ops.top_scores import largest


def topk_el_attention(
    query: Tensor,
    memory: Tensor,
    key_weight: Tensor,
    value_weight: Tensor,
    k: int,
    key_bias: Tensor | None = None,
    value_bias: Tensor | None = None,
    key_padding_mask: Tensor | None = None,
    attn_mask: Tensor | None = None,
    softmax_dtype: torch.dtype | None = None,
    dropout: Callable[[Tensor], Tensor] | None = None,
    need_weights: bool = True,
) -> tuple[Tensor, Tensor | None]:
    """:func:`fairseq_el.ops.el_attention` over the ``k`` largest of the ``n`` scores, with the same arguments.

    The key bias adds the same number to all scores of a query, so it does not change which are the largest. With
    ``k >= n`` it is EL-attention. A query that sees nothing gets the value bias alone without ``dropout``, else zeros.

    Args:
        k: from 1 on.

    Returns:
        the heads' outputs ``(B, b, h, dh)`` and the attention weights before dropout ``(B, b, h, n)``, zero but for
        ``k`` of each query, or None.
    """
    if k < 1:
        raise ValueError(f"topk_el_attention: k must be at least 1; got {k}")
    rounds = softmax_dtype is not None and torch.finfo(softmax_dtype).eps > torch.finfo(query.dtype).eps
    heads, (length, width) = query.shape[:3], memory.shape[1:]  # (B, b, h), (n, d)
    scores = expanded_scores(query, memory, key_weight, key_bias if rounds else None, key_padding_mask)
    if attn_mask is not None:
        scores.view(*heads, length).masked_fill_(attn_mask.unsqueeze(2), float("-inf"))  # (B, b*h, n) -> (B, b, h, n)
    top, where = largest(scores, k)
    weights = torch.softmax(top, dim=-1, dtype=softmax_dtype).masked_fill(top == float("-inf"), 0.0)

    probs = weights.to(query.dtype)
    if dropout is not None:
        probs = dropout(probs)
    context = sum_of_rows(memory, where, probs).view(*heads, width)  # (B, b*h, d) -> (B, b, h, d)
    sum_of_probs = probs.sum(dim=-1).view(*heads, 1) if dropout is not None or rounds else None
    output = output_of_context(context, value_weight, value_bias, sum_of_probs)
    if not need_weights:
        return output, None
    everywhere = torch.zeros(scores.shape, dtype=weights.dtype, device=scores.device).scatter(2, where, weights)
    return output, everywhere.view(*heads, length)
