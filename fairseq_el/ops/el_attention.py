"""EL-attention: multi-head attention without keys and values.

Yan et al., "EL-Attention: Memory Efficient Lossless Attention for Generation", ICML 2021, arXiv 2105.04779.

With ``q_i = s (x Wq_i + bq_i)`` the scaled query of head ``i`` and ``H`` the memory (for cross-attention: the encoder's
output), matrix products associate (equations 4 to 7 of the paper):

    scores_i = q_i (H Wk_i + bk_i)^T             =  (q_i Wk_i^T) H^T  +  q_i bk_i^T
    out_i    = softmax(scores_i) (H Wv_i + bv_i) =  (softmax(scores_i) H) Wv_i  +  bv_i

The term ``q_i bk_i^T`` is one number per query; the softmax removes it. The query is expanded to the width of ``H``,
the result contracted again. So the only thing kept for a sentence is ``H``, whatever the number of layers, heads and
beams.

Symbols: ``B`` sentences, ``b`` beams (more generally: queries that share a memory), ``h`` heads, ``d`` width of the
memory, ``dh`` width of a head, ``n`` length of the memory.
"""

from __future__ import annotations

from typing import Any, Callable

import torch
from torch import Tensor

from fairseq_el.ops.kv_attention import masked_softmax
from fairseq_el.ops.selected_rows import sum_of_rows
from fairseq_el.ops.top_scores import largest


def el_attention(
    query: Tensor,
    memory: Tensor,
    key_weight: Tensor,
    value_weight: Tensor,
    key_bias: Tensor | None = None,
    value_bias: Tensor | None = None,
    key_padding_mask: Tensor | None = None,
    attn_mask: Tensor | None = None,
    softmax_dtype: torch.dtype | None = None,
    dropout: Callable[[Tensor], Tensor] | None = None,
    need_weights: bool = True,
    k: int | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Attention of ``b`` queries per sentence over one shared memory per sentence.

    Two dense products per sentence, ``(b*h, d) x (d, n)`` and ``(b*h, n) x (n, d)``; the memory is only read. With
    ``k``, the second product reads only the rows of the ``k`` largest scores of every query.

    Args:
        query: projected and scaled queries, ``q_i`` above. *Shape:* ``(B, b, h, dh)``.
        memory: ``H`` above; fastest when contiguous. *Shape:* ``(B, n, d)``.
        key_weight: ``Wk``, as ``nn.Linear`` keeps it. *Shape:* ``(h * dh, d)``.
        value_weight: ``Wv``, as ``nn.Linear`` keeps it. *Shape:* ``(h * dh, d)``.
        key_bias: ``bk``; used only as said under *Rounding*. *Shape:* ``(h * dh)``.
        value_bias: ``bv``. *Shape:* ``(h * dh)``.
        key_padding_mask: True where a position of the memory is hidden. *Shape:* ``(B, n)``.
        attn_mask: True where a position of the memory is hidden from one query. *Shape:* ``(B, b, n)``. Every query
            must see something, unless ``k`` is given: then a query that sees nothing gets weights of zero.
        softmax_dtype: the dtype that the softmax is computed in (default: the dtype of the scores).
        dropout: applied to the attention weights; the result need not sum to one.
        need_weights: return the attention weights.
        k: how many scores of a query enter its softmax, the largest ones (default: all).

    Returns:
        the heads' outputs ``(B, b, h, dh)`` and the attention weights before dropout ``(B, b, h, n)``, the latter in
        ``softmax_dtype``, or None.

    Raises:
        ValueError: ``k`` is below 1.

    *Rounding:* fairseq computes every softmax in float32. For float64 inputs that rounds the scores: the weights of a
    query sum to one only within float32's precision. So the key bias does not vanish, and the value bias is not added
    exactly once. In that case both biases enter as they do in multi-head attention, and results agree with it to
    float64's precision. Where the softmax is as precise as the scores there is nothing to reproduce.
    """
    if k is not None and k < 1:
        raise ValueError(f"el_attention: k must be at least 1; got {k}")
    rounds = softmax_dtype is not None and torch.finfo(softmax_dtype).eps > torch.finfo(query.dtype).eps
    if not need_weights and not rounds:
        softmax_dtype = None  # softmax computes 16-bit numbers in float32 anyway, and rounds once
    heads, (length, width) = query.shape[:3], memory.shape[1:]  # (B, b, h), (n, d)
    scores = expanded_scores(query, memory, key_weight, key_bias if rounds else None, key_padding_mask)
    if k is None:
        weights, places = _softmax(scores, attn_mask, softmax_dtype), None  # (B, b*h, n)
    else:
        weights, places = _softmax_of_largest(scores, attn_mask, k, softmax_dtype)  # (B, b*h, k)

    probs = weights.to(query.dtype)
    if dropout is not None:
        probs = dropout(probs)
    context = torch.bmm(probs, memory) if places is None else sum_of_rows(memory, places, probs)
    context = context.view(*heads, width)  # (B, b*h, d) -> (B, b, h, d)
    sum_of_probs = probs.sum(dim=-1).view(*heads, 1) if dropout is not None or rounds else None
    output = output_of_context(context, value_weight, value_bias, sum_of_probs)
    if not need_weights:
        return output, None
    if places is not None:
        weights = weights.new_zeros(scores.shape).scatter(2, places, weights)
    return output, weights.view(*heads, length)  # (B, b*h, n) -> (B, b, h, n)


def expand_query(query: Tensor, key_weight: Tensor) -> Tensor:
    """The query expanded to the width of the memory: ``q_i Wk_i^T`` for every head.

    Args:
        query: projected and scaled queries. *Shape:* ``(B, b, h, dh)``.
        key_weight: the key projection, as ``nn.Linear`` keeps it. *Shape:* ``(h * dh, d)``.

    Returns:
        *Shape:* ``(B, b, h, d)``.
    """
    num_sentences, num_beams, num_heads, head_dim = query.shape
    per_head = query.reshape(-1, num_heads, head_dim).transpose(0, 1)  # (B, b, h, dh) -> (h, B*b, dh)
    expanded = _product_by_head(per_head, key_weight.view(num_heads, head_dim, -1))  # (B*b, h, d)
    return expanded.reshape(num_sentences, num_beams, num_heads, -1)


def contract_context(context: Tensor, value_weight: Tensor) -> Tensor:
    """The context contracted to the width of a head: ``c_i Wv_i`` for every head.

    Args:
        context: ``c_i``, each head's weighted sum of the memory's rows. *Shape:* ``(B, b, h, d)``.
        value_weight: the value projection, as ``nn.Linear`` keeps it. *Shape:* ``(h * dh, d)``.

    Returns:
        *Shape:* ``(B, b, h, dh)``.
    """
    num_sentences, num_beams, num_heads, width = context.shape
    per_head = context.reshape(-1, num_heads, width).transpose(0, 1)  # (B, b, h, d) -> (h, B*b, d)
    weight = value_weight.view(num_heads, -1, width).transpose(1, 2)  # (h*dh, d) -> (h, d, dh)
    return _product_by_head(per_head, weight).reshape(num_sentences, num_beams, num_heads, -1)


def _product_by_head(per_head: Tensor, weight: Tensor) -> Tensor:
    """Multiplies ``(h, rows, k)`` by ``(h, k, m)``: ``(rows, h, m)``.

    A card writes this layout at once. Otherwise rows are put together later, by another launch.
    """
    if per_head.device.type == "cpu" or torch.is_grad_enabled():
        return torch.bmm(per_head, weight).transpose(0, 1)
    product = per_head.new_empty(per_head.size(1), per_head.size(0), weight.size(2))
    torch.bmm(per_head, weight, out=product.transpose(0, 1))
    return product


def expanded_scores(
    query: Tensor,
    memory: Tensor,
    key_weight: Tensor,
    key_bias: Tensor | None,
    key_padding_mask: Tensor | None,
) -> Tensor:
    """Scores of projected queries against a memory, whose keys are never made.

    Args:
        query, memory, key_weight, key_padding_mask: as of :func:`el_attention`.
        key_bias: adds the same number to all scores of a query; None where the softmax removes it.

    Returns:
        *Shape:* ``(B, b * h, n)``, minus infinity at padding.
    """
    num_sentences, _, num_heads, head_dim = query.shape
    width = memory.size(2)
    expanded = expand_query(query, key_weight).reshape(num_sentences, -1, width)  # (B, b, h, d) -> (B, b*h, d)
    scores = torch.bmm(expanded, memory.transpose(1, 2))  # (B, b*h, n)
    if key_bias is not None:
        shift = (query * key_bias.view(num_heads, head_dim)).sum(dim=-1)  # q_i bk_i^T: (B, b, h)
        scores = scores + shift.view(num_sentences, -1, 1)
    if key_padding_mask is not None:
        scores = scores.masked_fill_(key_padding_mask.unsqueeze(1), float("-inf"))
    return scores


def output_of_context(
    context: Tensor, value_weight: Tensor, value_bias: Tensor | None, sum_of_probs: Tensor | None
) -> Tensor:
    """The heads' outputs from their contexts: ``probs (H Wv + 1 bv) = (probs H) Wv + (probs 1) bv``.

    Args:
        context: ``probs H``. *Shape:* ``(B, b, h, d)``.
        value_weight: as of :func:`el_attention`.
        value_bias: *Shape:* ``(h * dh)`` or None.
        sum_of_probs: ``probs 1``, where it is not one; None where it is. *Shape:* ``(B, b, h, 1)``.

    Returns:
        *Shape:* ``(B, b, h, dh)``.
    """
    output = contract_context(context, value_weight)
    if value_bias is None:
        return output
    bias = value_bias.view(output.shape[2:])  # (h*dh) -> (h, dh)
    return output + (bias if sum_of_probs is None else sum_of_probs * bias)


def _softmax(scores: Tensor, attn_mask: Tensor | None, dtype: torch.dtype | None) -> Tensor:
    """Softmax of ``scores`` ``(B, b*h, n)``, which it overwrites, without what ``attn_mask`` ``(B, b, n)`` hides."""
    if attn_mask is None:
        return torch.softmax(scores, dim=-1, dtype=dtype)
    return masked_softmax(_by_query(scores, attn_mask), attn_mask.unsqueeze(2), dtype).view_as(scores)


def _softmax_of_largest(
    scores: Tensor, attn_mask: Tensor | None, k: int, dtype: torch.dtype | None
) -> tuple[Tensor, Tensor]:
    """Softmax of the ``k`` largest scores of every query (Gupta et al. 2021, arXiv 2106.06899), and their places.

    Args:
        scores: overwritten. *Shape:* ``(B, b*h, n)``.
        attn_mask: True where a position is hidden from a query. *Shape:* ``(B, b, n)``.

    Returns:
        weights, zero where a position is hidden, and places. *Shape:* ``(B, b*h, min(k, n))`` each.
    """
    if attn_mask is not None:
        _by_query(scores, attn_mask).masked_fill_(attn_mask.unsqueeze(2), float("-inf"))
    top, places = largest(scores, k)
    return torch.softmax(top, dim=-1, dtype=dtype).masked_fill(top == float("-inf"), 0.0), places


def _by_query(scores: Tensor, attn_mask: Tensor) -> Tensor:
    """Splits scores by query: a view, ``(B, b*h, n)`` to ``(B, b, h, n)``."""
    num_sentences, num_beams, length = attn_mask.shape
    return scores.view(num_sentences, num_beams, scores.size(1) // max(num_beams, 1), length)


def topk_el_attention(
    query: Tensor, memory: Tensor, key_weight: Tensor, value_weight: Tensor, k: int, *args: Any, **options: Any
) -> tuple[Tensor, Tensor | None]:
    """:func:`el_attention` over the ``k`` largest scores; the other arguments are the same, in the same order."""
    options["k"] = k
    return el_attention(query, memory, key_weight, value_weight, *args, **options)
