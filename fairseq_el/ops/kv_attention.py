"""Multi-head attention of many queries over keys and values that are kept once per sentence, and its masked softmax.

Symbols: ``B`` sentences, ``b`` queries that share a memory (beams, or the words of a prompt), ``h`` heads, ``dh`` width
of a head, ``n`` length of the memory.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from fairseq_el._compat import torch_version
from fairseq_el.ops.topk_attention import MOST_QUERIES, topk_attention

_FUSED = torch_version() >= (2, 1)  # before, torch's fused attention has no scale
_HAS_CUDNN = hasattr(torch.backends.cuda, "cudnn_sdp_enabled")
_WIDTHS_ON_CARD = 8  # numbers of 16 bits: tensor cores read 16 bytes at a time


def kv_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    softmax_dtype: torch.dtype | None = None,
    scale: float = 1.0,
    k: int | None = None,
    query_chunk: int = MOST_QUERIES,
    causal: bool = False,
) -> Tensor:
    """Attention with one set of keys and values per sentence: ``softmax(s q_i K_i^T) V_i``.

    Vaswani et al., "Attention Is All You Need", NIPS 2017, arXiv 1706.03762, equation 1.

    Two dense products per sentence and head, ``(b, dh) x (dh, n)`` and ``(b, n) x (n, dh)``; nothing is expanded to
    beams. They and the softmax are torch's fused attention, unless the softmax must round more than the scores do. On
    cards, heads of a width that no fused kernel takes get zeros (:func:`fused_head_dim`). With ``k`` it is
    :func:`topk_attention`.

    Args:
        query: projected queries. *Shape:* ``(B, b, h, dh)``.
        key, value: *Shape:* ``(B, h, n, dh)``; a slice of longer storage will do.
        attn_mask: True where a position is hidden from one query; or the same as numbers that are added to the scores,
            from :func:`as_bias`, where many layers have the same mask. *Shape:* ``(B, b, n)`` or ``(B, 1, n)``. Every
            query must see something.
        softmax_dtype: the dtype that the softmax is computed in (default: the dtype of the scores).
        scale: ``s``, multiplied with the queries; 1 for queries that are scaled already.
        k: how many scores of a query enter its softmax, the largest ones (default: all).
        query_chunk: with ``k``, how many queries of a head are scored at a time, at most.
        causal: with ``k``, query ``i`` sees the keys up to ``i + n - b`` only.

    Returns:
        the heads' outputs. *Shape:* ``(B, b, h, dh)``.

    Raises:
        ValueError: ``causal`` is given without ``k``.
    """
    if causal and k is None:
        raise ValueError("kv_attention: causal is for attention over k scores; give k, or an attn_mask")
    mask = None if attn_mask is None else attn_mask.unsqueeze(1)  # for all heads: (B, b, n) -> (B, 1, b, n)
    if k is not None:
        scaled = (query * scale).transpose(1, 2)  # (B, b, h, dh) -> (B, h, b, dh)
        heads = topk_attention(
            scaled,
            key,
            value,
            k,
            attn_mask=mask,
            causal=causal,
            query_chunk=query_chunk,
            softmax_dtype=softmax_dtype,
        )
        return heads.transpose(1, 2)
    rounds = softmax_dtype is not None and torch.finfo(softmax_dtype).eps > torch.finfo(query.dtype).eps
    if _FUSED and not rounds:
        return _fused(query.transpose(1, 2), key, value, mask, scale).transpose(1, 2)  # (B, h, b, dh) -> (B, b, h, dh)
    query = query if scale == 1.0 else query * scale
    scores = torch.matmul(query.transpose(1, 2), key.transpose(2, 3))  # (B, h, b, dh) x (B, h, dh, n) -> (B, h, b, n)
    if mask is not None and mask.dtype == torch.bool:
        weights = masked_softmax(scores, mask, softmax_dtype)
    else:
        weights = torch.softmax(scores if mask is None else scores.add_(mask), dim=-1, dtype=softmax_dtype)
    probs = weights.to(query.dtype)
    return torch.matmul(probs, value).transpose(1, 2)  # (B, h, b, n) x (B, h, n, dh) -> (B, b, h, dh)


def _fused(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scale: float) -> Tensor:
    """torch's fused attention, over heads of a width that it takes."""
    if mask is None:
        return _without_cudnn(query, key, value, mask, scale)
    mask = ~mask if mask.dtype == torch.bool else mask
    head_dim = query.size(-1)
    zeros = fused_head_dim(head_dim, query.device.type, query.element_size()) - head_dim
    if not zeros:
        return _without_cudnn(query, key, value, mask, scale)
    query, key, value = (F.pad(heads, (0, zeros)) for heads in (query, key, value))  # which add nothing to a score
    return _without_cudnn(query, key, value, mask, scale)[..., :head_dim]


def _without_cudnn(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scale: float) -> Tensor:
    """torch's fused attention, but never cuDNN's, whose sums differ from call to call (seen on an H100, torch 2.11)."""
    cudnn = query.is_cuda and _HAS_CUDNN and torch.backends.cuda.cudnn_sdp_enabled()
    if cudnn:
        torch.backends.cuda.enable_cudnn_sdp(False)
    try:
        return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=scale)
    finally:
        if cudnn:
            torch.backends.cuda.enable_cudnn_sdp(True)


def fused_head_dim(head_dim: int, device_type: str, num_bytes: int) -> int:
    """The width that heads are computed with under a mask: on cards in 16 bits, the next multiple of 8.

    torch's memory-efficient kernel takes no other widths in 16 bits, and no other fused kernel takes a mask. What
    remains is torch's unfused attention, which keeps all scores. An illegal memory access was seen on an H100 in tests
    that alone reached it ("On a card" in docs/benchmarks.md).

    Args:
        head_dim: ``dh``.
        device_type: ``"cpu"`` or ``"cuda"``.
        num_bytes: of a number.
    """
    if device_type != "cuda" or num_bytes != 2:
        return head_dim
    return -(-head_dim // _WIDTHS_ON_CARD) * _WIDTHS_ON_CARD


def masked_softmax(scores: Tensor, hidden: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """Softmax over the last dimension, without hidden positions.

    Args:
        scores: overwritten. *Shape:* ``(..., n)``.
        hidden: True where a position is hidden; every row must see something. *Shape:* ``(..., n)``, broadcast.
        dtype: the dtype that the softmax is computed in (default: the dtype of the scores).

    *Rounding:* fairseq computes the softmax of float64 models in float32. Such a softmax rounds more than its scores
    do, and its last digits depend on where hidden positions lie between visible ones. For these models alone, visible
    positions are brought together first. So the result is the same as without the hidden positions.
    """
    if dtype is not None and torch.finfo(dtype).eps > torch.finfo(scores.dtype).eps:
        return _softmax_of_visible(scores, hidden.expand_as(scores), dtype)
    return torch.softmax(scores.masked_fill_(hidden, float("-inf")), dim=-1, dtype=dtype)


def as_bias(hidden: Tensor, dtype: torch.dtype) -> Tensor:
    """A mask as numbers to add to scores: 0, or minus infinity where a position is hidden.

    Rows begin at multiples of 16 numbers: where they do not, torch's fused attention on a card copies them.

    Args:
        hidden: True where a position is hidden. *Shape:* ``(..., n)``.
        dtype: of the scores, at least as precise as the softmax (else see *Rounding* in :func:`masked_softmax`).

    Returns:
        *Shape:* ``(..., n)``.
    """
    length = hidden.size(-1)
    bias = torch.zeros(*hidden.shape[:-1], -(-length // 16) * 16, dtype=dtype, device=hidden.device)[..., :length]
    return bias.masked_fill_(hidden, float("-inf"))


def _softmax_of_visible(scores: Tensor, hidden: Tensor, dtype: torch.dtype) -> Tensor:
    visible_first = torch.sort(hidden.to(torch.uint8), dim=-1, stable=True)[1]
    num_visible = hidden.size(-1) - hidden.sum(dim=-1)
    result = torch.zeros(scores.shape, dtype=dtype, device=scores.device)
    for n in num_visible.unique().tolist():
        rows = num_visible == n
        positions = visible_first[rows][:, :n]
        weights = torch.softmax(scores[rows].gather(1, positions), dim=-1, dtype=dtype)
        result[rows] = result[rows].scatter(1, positions, weights)
    return result
