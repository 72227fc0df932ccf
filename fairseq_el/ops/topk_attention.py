"""Top-k attention: of all scores of a query, only the k largest enter its softmax.

Gupta, Dar, Goodman, Ciprut, Berant, "Memory-efficient Transformers via Top-k Attention", 2021, arXiv 2106.06899,
sections 2 and 3:

    scores = Q K^T,   top, where = the k largest of every row,   out_i = sum over j of softmax(top_i)_j V[where_ij]

Queries are taken in chunks, so only the scores of one chunk exist at a time. For the gradients, the k scores and their
places are all that is kept beside Q, K and V: with them nothing has to be computed twice but a softmax of k numbers.

Symbols: ``B`` sentences, ``h`` heads, ``t`` queries, ``n`` keys, ``dh`` width of a head, ``dv`` that of a value.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Iterator

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from fairseq_el.ops.selected_rows import index_dtype, sum_of_rows

_BYTES_AT_ONCE = {"cpu": 16 << 20}  # of the scores of a chunk
_BYTES_ON_A_CARD = 256 << 20


def topk_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    k: int,
    *,
    key_padding_mask: Tensor | None = None,
    attn_mask: Tensor | None = None,
    causal: bool = False,
    query_chunk: int = 1024,
    dropout: float = 0.0,
    softmax_dtype: torch.dtype | None = None,
) -> Tensor:
    """``softmax`` over the ``k`` largest scores of every query, and the sum of those values.

    With ``k >= n`` it is ordinary attention. Differentiable (once) in query, key and value. A query that sees fewer
    than ``k`` keys uses those; a query that sees none gets zeros and no gradient, where a softmax would give NaN.
    Of equal scores at the border, which are kept is not defined; exactly ``k`` are.

    Args:
        query: scaled. *Shape:* ``(B, h, t, dh)``.
        key: may be expanded. *Shape:* ``(B, h, n, dh)``.
        value: may be expanded. *Shape:* ``(B, h, n, dv)``.
        k: from 1 on.
        key_padding_mask: True where a key is hidden. *Shape:* ``(B, n)``.
        attn_mask: True where a key is hidden from a query, or numbers to add to the scores, which get no gradient.
            *Shape:* ``(B, h, t, n)``, broadcast, as ``(t, n)``.
        causal: query ``i`` sees the keys up to ``i + n - t`` only; the others are not multiplied.
        query_chunk: how many queries are scored at a time, at most.
        dropout: probability with which each of the ``k`` weights is dropped; the others grow to match.
        softmax_dtype: what the softmax is computed in (default: the query's dtype, float32 for 16 bits).

    Returns:
        the heads' outputs. *Shape:* ``(B, h, t, dv)``.

    Raises:
        ValueError: an argument has a value or a shape that it can't have.
    """
    if attn_mask is not None:
        attn_mask = attn_mask.expand(*query.shape[:3], key.size(2))
    how = _How(k, key_padding_mask, attn_mask, causal, query_chunk, dropout, softmax_dtype or _softmax_dtype(query))
    _check(query, key, value, how)
    if torch.is_grad_enabled() and (query.requires_grad or key.requires_grad or value.requires_grad):
        return _TopkAttention.apply(query, key, value, how)
    return _forward(query, key, value, how, None)


@dataclass(frozen=True)
class _How:
    """The arguments that are not differentiated."""

    k: int
    key_padding_mask: Tensor | None
    attn_mask: Tensor | None
    causal: bool
    query_chunk: int
    dropout: float
    softmax_dtype: torch.dtype


@dataclass(frozen=True)
class _Kept:
    """What is kept for the gradients. *Shape:* ``(B, h, t, min(k, n))`` each."""

    top: Tensor  # the k scores
    where: Tensor  # their keys
    alive: Tensor | None  # False where dropped


class _TopkAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, how: _How) -> Tensor:
        shape = (*query.shape[:3], min(how.k, key.size(2)))
        kept = _Kept(
            query.new_full(shape, float("-inf")),
            torch.zeros(shape, dtype=index_dtype(key.size(2)), device=query.device),
            torch.ones(shape, dtype=torch.bool, device=query.device) if how.dropout else None,
        )
        output = _forward(query, key, value, how, kept)
        ctx.save_for_backward(query, key, value, kept.top, kept.where, kept.alive)
        ctx.how = how
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, *kept = ctx.saved_tensors
        return (*_backward(grad, query, key, value, ctx.how, _Kept(*kept)), None)


def _forward(query: Tensor, key: Tensor, value: Tensor, how: _How, kept: _Kept | None) -> Tensor:
    output = query.new_zeros(*query.shape[:3], value.size(3))
    for heads in _groups(query, key, how):
        queries, keys, values = query[heads], key[heads], value[heads].contiguous()
        for rows, visible in _chunks(query, key, how):
            scores = queries[:, :, rows] @ keys[:, :, :visible].transpose(2, 3)  # (B', h', C, visible)
            _hide(scores, how, heads, rows)
            top, where = torch.topk(scores, min(how.k, visible), dim=-1, sorted=False)
            weights = _softmax(top, how.softmax_dtype).to(query.dtype)
            if how.dropout:
                alive = torch.empty_like(where, dtype=torch.bool).bernoulli_(1 - how.dropout)
                weights = weights * alive / (1 - how.dropout)
                if kept is not None and kept.alive is not None:
                    kept.alive[heads][:, :, rows, : alive.size(-1)] = alive
            if kept is not None:
                kept.top[heads][:, :, rows, : top.size(-1)] = top
                kept.where[heads][:, :, rows, : top.size(-1)] = where
            summed = sum_of_rows(values.flatten(0, 1), where.flatten(0, 1), weights.flatten(0, 1))
            output[heads][:, :, rows] = summed.view(*weights.shape[:3], -1)
    return output


def _backward(grad: Tensor, query: Tensor, key: Tensor, value: Tensor, how: _How, kept: _Kept) -> tuple[Tensor, ...]:
    grad_query = torch.zeros_like(query)
    grad_key, grad_value = query.new_empty(key.shape), query.new_empty(value.shape)
    for heads in _groups(query, key, how):
        queries, keys, values, grads = query[heads], key[heads].contiguous(), value[heads], grad[heads]
        sum_dtype = torch.float32 if query.element_size() == 2 else query.dtype  # of sums over chunks
        of_keys = torch.zeros(keys.shape, dtype=sum_dtype, device=query.device)
        of_values = torch.zeros(values.shape, dtype=sum_dtype, device=query.device)
        for rows, visible in _chunks(query, key, how):
            k = min(how.k, visible)
            where = kept.where[heads][:, :, rows, :k].long()
            weights = _softmax(kept.top[heads][:, :, rows, :k], how.softmax_dtype)
            # out = (w a) V with a = alive / (1 - p): dV = (w a)^T dout, dw = a (dout V^T), ds = w (dw - sum(w dw))
            dense = grads[:, :, rows] @ values[:, :, :visible].transpose(2, 3)
            of_weights = dense.gather(3, where).to(weights.dtype)
            dropped = weights
            if kept.alive is not None:
                factor = kept.alive[heads][:, :, rows, :k] / (1 - how.dropout)
                dropped, of_weights = weights * factor, of_weights * factor
            of_scores = weights * (of_weights - (weights * of_weights).sum(dim=-1, keepdim=True))
            of_scores = of_scores.to(query.dtype)
            summed = sum_of_rows(keys.flatten(0, 1), where.flatten(0, 1), of_scores.flatten(0, 1))
            grad_query[heads][:, :, rows] = summed.view_as(queries[:, :, rows])
            dense.zero_().scatter_(3, where, of_scores)
            of_keys[:, :, :visible] += dense.transpose(2, 3) @ queries[:, :, rows]
            dense.scatter_(3, where, dropped.to(query.dtype))  # the same places again
            of_values[:, :, :visible] += dense.transpose(2, 3) @ grads[:, :, rows]
        grad_key[heads], grad_value[heads] = of_keys, of_values
    return grad_query, grad_key, grad_value


def _groups(query: Tensor, key: Tensor, how: _How) -> Iterator[tuple[slice, slice]]:
    """Sentences and heads that are scored together: whole sentences, or some heads of one, as many as fit."""
    num_sentences, num_heads, num_queries = query.shape[:3]
    of_a_head = max(min(how.query_chunk, num_queries) * key.size(2) * query.element_size(), 1)
    at_once = max(_BYTES_AT_ONCE.get(query.device.type, _BYTES_ON_A_CARD) // of_a_head, 1)
    sentences, heads = max(at_once // max(num_heads, 1), 1), min(at_once, num_heads)
    for begin in range(0, num_sentences, sentences):
        for head in range(0, num_heads, heads):
            yield slice(begin, begin + sentences), slice(head, head + heads)


def _chunks(query: Tensor, key: Tensor, how: _How) -> Iterator[tuple[slice, int]]:
    """Queries that are scored together, and how many keys the last of them sees; none that sees no key."""
    num_queries, num_keys = query.size(2), key.size(2)
    for begin in range(0, num_queries, how.query_chunk):
        end = min(begin + how.query_chunk, num_queries)
        visible = min(end + num_keys - num_queries, num_keys) if how.causal else num_keys
        if visible > 0:
            yield slice(begin, end), visible


def _hide(scores: Tensor, how: _How, heads: tuple[slice, slice], rows: slice) -> None:
    """Minus infinity where a key is hidden, in place."""
    visible = scores.size(3)
    if how.attn_mask is not None:
        mask = how.attn_mask[heads[0], heads[1], rows, :visible]
        if mask.dtype == torch.bool:
            scores.masked_fill_(mask, float("-inf"))
        else:
            scores.add_(mask)
    if how.key_padding_mask is not None:
        scores.masked_fill_(how.key_padding_mask[heads[0], None, None, :visible], float("-inf"))
    if how.causal:  # the last row sees all that is there, the one before one key less, ...
        num_rows = scores.size(2)
        later = min(num_rows - 1, visible)
        future = torch.ones(num_rows, later, dtype=torch.bool, device=scores.device).triu(later - num_rows + 1)
        scores[..., visible - later :].masked_fill_(future, float("-inf"))


def _softmax(top: Tensor, dtype: torch.dtype) -> Tensor:
    """Zeros where everything is hidden."""
    return torch.softmax(top, dim=-1, dtype=dtype).masked_fill_(top == float("-inf"), 0.0)


def _softmax_dtype(query: Tensor) -> torch.dtype:
    return torch.float32 if query.element_size() == 2 else query.dtype


def _check(query: Tensor, key: Tensor, value: Tensor, how: _How) -> None:
    num_sentences, num_heads, _, head_dim = query.shape
    num_keys = key.size(2)
    problems = []
    if how.k < 1:
        problems.append(f"k must be at least 1; got {how.k}")
    if how.query_chunk < 1:
        problems.append(f"query_chunk must be at least 1; got {how.query_chunk}")
    if not 0.0 <= how.dropout < 1.0:
        problems.append(f"dropout must be at least 0 and below 1; got {how.dropout}")
    if key.shape != (num_sentences, num_heads, num_keys, head_dim):
        problems.append(f"key must be (B, h, n, dh) like the query {tuple(query.shape)}; got {tuple(key.shape)}")
    if value.shape[:3] != key.shape[:3]:
        problems.append(f"value must be (B, h, n, dv) like the key {tuple(key.shape)}; got {tuple(value.shape)}")
    mask = how.key_padding_mask
    if mask is not None and (mask.shape != (num_sentences, num_keys) or mask.dtype != torch.bool):
        expected = (num_sentences, num_keys)
        problems.append(f"key_padding_mask must be bool {expected}; got {mask.dtype} {tuple(mask.shape)}")
    if how.attn_mask is not None and how.attn_mask.requires_grad:
        problems.append("attn_mask gets no gradient; detach it, or use ordinary attention")
    if problems:
        raise ValueError("topk_attention: " + "; ".join(problems))
