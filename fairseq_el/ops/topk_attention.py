"""Top-k attention: of all scores of a query, only the k largest enter its softmax.

Gupta, Dar, Goodman, Ciprut, Berant, "Memory-efficient Transformers via Top-k Attention", 2021, arXiv 2106.06899,
sections 2 and 3:

    scores = Q K^T,   top, where = the k largest of every row,   out_i = sum over j of softmax(top_i)_j V[where_ij]

Queries are taken in chunks, so only the scores of one chunk exist at a time. For the gradients, only the k scores and
their places are saved beside Q, K and V: the backward pass computes nothing twice but a softmax of k numbers.

Symbols: ``B`` sentences, ``h`` heads, ``t`` queries, ``n`` keys, ``dh`` width of a head, ``dv`` that of a value.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Iterator

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from fairseq_el.ops.selected_rows import Selection, index_dtype, products_with_rows, sum_of_rows
from fairseq_el.ops.top_scores import largest

_BYTES_AT_ONCE = {"cpu": 16 << 20}  # of the scores of a chunk
_BYTES_ON_A_CARD = 256 << 20
_FEWEST_ROWS = 128  # of a product: fewer are slow
MOST_QUERIES = 256  # with more, a causal product spends most of its time on keys that its first rows may not see
_BYTES_OF_A_SELECTION = 40  # in the backward pass: where, sorted, order, queries, weights, their gradients


def topk_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    k: int,
    *,
    key_padding_mask: Tensor | None = None,
    attn_mask: Tensor | None = None,
    causal: bool = False,
    query_chunk: int = MOST_QUERIES,
    dropout: float = 0.0,
    softmax_dtype: torch.dtype | None = None,
) -> Tensor:
    """Attention over the ``k`` largest scores of every query: their softmax, and the sum of those values.

    With ``k >= n`` it is ordinary attention. Differentiable (once) in query, key and value. A query that sees fewer
    than ``k`` keys uses those; a query that sees none gets zeros and no gradient, where a softmax would give NaN.
    Of equal scores at the border, which are kept is not defined; exactly ``k`` are.

    Args:
        query: scaled. *Shape:* ``(B, h, t, dh)``.
        key: may be expanded. *Shape:* ``(B, h, n, dh)``.
        value: may be expanded. *Shape:* ``(B, h, n, dv)``.
        k: at least 1.
        key_padding_mask: True where a key is hidden. *Shape:* ``(B, n)``.
        attn_mask: True where a key is hidden from a query, or numbers to add to the scores, which get no gradient.
            *Shape:* ``(B, h, t, n)``, broadcast, as ``(t, n)``.
        causal: query ``i`` sees the keys up to ``i + n - t`` only; the others are not multiplied.
        query_chunk: how many queries of a head are scored at a time, at most; above 256 it has no effect.
        dropout: probability with which each of the ``k`` weights is dropped; the others grow to match.
        softmax_dtype: what the softmax is computed in (default: the query's dtype, float32 for 16 bits).

    Returns:
        the heads' outputs. *Shape:* ``(B, h, t, dv)``.

    Raises:
        ValueError: an argument has a wrong value or shape; all problems are named.
    """
    options = _Options(
        k, key_padding_mask, attn_mask, causal, query_chunk, dropout, softmax_dtype or _at_least_float32(query)
    )
    _check(query, key, value, options)
    if attn_mask is not None:
        options = replace(options, attn_mask=attn_mask.expand(*query.shape[:3], key.size(2)))
    if torch.is_grad_enabled() and (query.requires_grad or key.requires_grad or value.requires_grad):
        output: Tensor = _TopkAttention.apply(query, key, value, options)
        return output
    return _forward(query, key, value, options, None)


@dataclass(frozen=True)
class _Options:
    """The arguments that get no gradient."""

    k: int
    key_padding_mask: Tensor | None
    attn_mask: Tensor | None
    causal: bool
    query_chunk: int
    dropout: float
    softmax_dtype: torch.dtype


@dataclass(frozen=True)
class _Saved:
    """The tensors that the gradients need. *Shape:* ``(B*h, t, min(k, n))`` each."""

    top: Tensor  # the k scores
    where: Tensor  # their keys
    alive: Tensor | None  # False where dropped


class _TopkAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, options: _Options) -> Tensor:
        num_sentences, num_heads, num_queries = query.shape[:3]
        shape = (num_sentences * num_heads, num_queries, min(options.k, key.size(2)))
        saved = _Saved(
            query.new_full(shape, float("-inf")),
            torch.zeros(shape, dtype=index_dtype(key.size(2)), device=query.device),
            torch.ones(shape, dtype=torch.bool, device=query.device) if options.dropout else None,
        )
        output = _forward(query, key, value, options, saved)
        ctx.save_for_backward(query, key, value, saved.top, saved.where, saved.alive)
        ctx.options = replace(options, key_padding_mask=None, attn_mask=None)  # the saved scores have them
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, *saved = ctx.saved_tensors
        return (*_backward(grad, query, key, value, ctx.options, _Saved(*saved)), None)


def _forward(query: Tensor, key: Tensor, value: Tensor, options: _Options, saved: _Saved | None) -> Tensor:
    output = query.new_zeros(query.size(0) * query.size(1), query.size(2), value.size(3))
    chunks = _Chunks(query, key.size(2) * query.element_size(), min(options.query_chunk, MOST_QUERIES))
    for heads, pairs in chunks.heads:
        queries, keys, values = (x[heads].flatten(0, 1) for x in (query, key, value))  # (B', h', n, dh) -> (P, n, dh)
        for rows in chunks.rows:
            visible = _visible(query, key, options, rows)
            scores = queries[:, rows] @ keys[:, :visible].transpose(1, 2)  # (P, C, visible)
            _hide(scores.view(*query[heads].shape[:2], *scores.shape[1:]), options, heads, rows)
            top, where = largest(scores, options.k)
            weights = _softmax(top, options.softmax_dtype).to(query.dtype)
            here = (pairs, rows, slice(top.size(2)))
            if options.dropout:
                alive = torch.empty_like(where, dtype=torch.bool).bernoulli_(1 - options.dropout)
                weights = weights * alive / (1 - options.dropout)
                if saved is not None and saved.alive is not None:
                    saved.alive[here] = alive
            if saved is not None:
                saved.top[here], saved.where[here] = top, where.to(saved.where.dtype)
            output[pairs, rows] = sum_of_rows(values, where, weights)
    return output.view(*query.shape[:3], -1)


def _backward(
    grad: Tensor, query: Tensor, key: Tensor, value: Tensor, options: _Options, saved: _Saved
) -> tuple[Tensor, ...]:
    grad_query, grad_key, grad_value = (x.new_zeros(x.shape).flatten(0, 1) for x in (query, key, value))
    sum_dtype = _at_least_float32(query)  # of sums over chunks
    chunks = _Chunks(query, saved.top.size(2) * _BYTES_OF_A_SELECTION, query.size(2))
    for heads, pairs in chunks.heads:
        grads, queries, keys, values = (x[heads].flatten(0, 1) for x in (grad, query, key, value))
        of_keys, of_values = (torch.zeros(x.shape, dtype=sum_dtype, device=x.device) for x in (keys, values))
        for rows in chunks.rows:
            here = (pairs, rows, slice(_visible(query, key, options, rows)))
            where, weights = saved.where[here], _softmax(saved.top[here], options.softmax_dtype)
            # out = (w a) V with a = alive / (1 - p): dV = (w a)^T dout, dw = a (dout V^T), ds = w (dw - sum(w dw))
            dropped, of_weights = weights, products_with_rows(values, where, grads[:, rows]).to(weights.dtype)
            if saved.alive is not None:
                factor = saved.alive[here].to(weights.dtype) / (1 - options.dropout)
                dropped, of_weights = weights * factor, of_weights * factor
            of_scores = weights * (of_weights - (weights * of_weights).sum(dim=-1, keepdim=True))
            grad_query[pairs, rows] = sum_of_rows(keys, where, of_scores)
            selection = Selection(where, key.size(2))
            of_keys += selection.sum_of_queries(queries[:, rows], of_scores)
            of_values += selection.sum_of_queries(grads[:, rows], dropped)
        grad_key[pairs], grad_value[pairs] = of_keys, of_values
    return grad_query.view_as(query), grad_key.view(key.shape), grad_value.view(value.shape)


class _Chunks:
    """The queries that are computed together: of one head, of some heads of a sentence, or of whole sentences."""

    def __init__(self, query: Tensor, of_a_query: int, most_rows: int):
        """Args: ``of_a_query``: bytes that a query of a head needs. ``most_rows``: queries of a head at a time."""
        self._num_sentences, self._num_heads, self._num_queries = query.shape[:3]
        at_once = _BYTES_AT_ONCE.get(query.device.type, _BYTES_ON_A_CARD)
        most_rows, of_a_query = max(min(most_rows, query.size(2)), 1), max(of_a_query, 1)
        self._num_rows = min(max(at_once // of_a_query, _FEWEST_ROWS), most_rows)
        self._num_pairs = max(at_once // (of_a_query * self._num_rows), 1)  # of a sentence and a head

    @property
    def heads(self) -> Iterator[tuple[tuple[slice, slice], slice]]:
        """Yields sentences and their heads, and the same as pairs, which are numbered through all sentences."""
        sentences, heads = max(self._num_pairs // max(self._num_heads, 1), 1), min(self._num_pairs, self._num_heads)
        for begin in range(0, self._num_sentences, sentences):
            for head in range(0, self._num_heads, heads):
                first = begin * self._num_heads + head
                of_some = (slice(begin, begin + sentences), slice(head, head + heads))
                last = min(begin + sentences, self._num_sentences) - 1
                end = last * self._num_heads + min(head + heads, self._num_heads)
                yield of_some, slice(first, end)

    @property
    def rows(self) -> Iterator[slice]:
        """Yields the queries of a head."""
        for begin in range(0, self._num_queries, self._num_rows):
            yield slice(begin, min(begin + self._num_rows, self._num_queries))


def _visible(query: Tensor, key: Tensor, options: _Options, rows: slice) -> int:
    """Returns how many keys the last of some queries may see."""
    num_keys = key.size(2)
    return max(rows.stop + num_keys - query.size(2), 0) if options.causal else num_keys


def _hide(scores: Tensor, options: _Options, heads: tuple[slice, slice], rows: slice) -> None:
    """Sets scores to minus infinity where a key is hidden, in place."""
    visible = scores.size(3)
    if options.attn_mask is not None:
        mask = options.attn_mask[heads[0], heads[1], rows, :visible]
        if mask.dtype == torch.bool:
            scores.masked_fill_(mask, float("-inf"))
        else:
            scores.add_(mask)
    if options.key_padding_mask is not None:
        scores.masked_fill_(options.key_padding_mask[heads[0], None, None, :visible], float("-inf"))
    if options.causal:  # the last row sees all that is there, the one before one key less, ...
        num_rows = scores.size(2)
        later = min(num_rows - 1, visible)
        future = torch.ones(num_rows, later, dtype=torch.bool, device=scores.device).triu(later - num_rows + 1)
        scores[..., visible - later :].masked_fill_(future, float("-inf"))


def _softmax(top: Tensor, dtype: torch.dtype) -> Tensor:
    """Softmax of the kept scores; zeros where a query sees nothing."""
    return torch.softmax(top, dim=-1, dtype=dtype).masked_fill_(top == float("-inf"), 0.0)


def _at_least_float32(x: Tensor) -> torch.dtype:
    """The dtype of ``x``, or float32 for 16 bits."""
    return torch.promote_types(x.dtype, torch.float32)


def _check(query: Tensor, key: Tensor, value: Tensor, options: _Options) -> None:
    num_sentences, num_heads, _, head_dim = query.shape
    num_keys = key.size(2)
    problems = []
    if options.k < 1:
        problems.append(f"k must be at least 1; got {options.k}")
    if options.query_chunk < 1:
        problems.append(f"query_chunk must be at least 1; got {options.query_chunk}")
    if not 0.0 <= options.dropout < 1.0:
        problems.append(f"dropout must be at least 0 and below 1; got {options.dropout}")
    if key.shape != (num_sentences, num_heads, num_keys, head_dim):
        problems.append(f"key must be (B, h, n, dh) like the query {tuple(query.shape)}; got {tuple(key.shape)}")
    if value.shape[:3] != key.shape[:3]:
        problems.append(f"value must be (B, h, n, dv) like the key {tuple(key.shape)}; got {tuple(value.shape)}")
    mask = options.key_padding_mask
    if mask is not None and (mask.shape != (num_sentences, num_keys) or mask.dtype != torch.bool):
        expected = (num_sentences, num_keys)
        problems.append(f"key_padding_mask must be bool {expected}; got {mask.dtype} {tuple(mask.shape)}")
    if options.attn_mask is not None:
        scores = (*query.shape[:3], num_keys)
        sizes = zip(options.attn_mask.shape[::-1], scores[::-1])
        if options.attn_mask.dim() > 4 or any(size not in (1, wanted) for size, wanted in sizes):
            got = tuple(options.attn_mask.shape)
            problems.append(f"attn_mask must be broadcastable to (B, h, t, n) {scores}; got {got}")
        if not (options.attn_mask.dtype == torch.bool or options.attn_mask.is_floating_point()):
            problems.append(f"attn_mask must be bool or floating point; got {options.attn_mask.dtype}")
        if options.attn_mask.requires_grad:
            problems.append("attn_mask gets no gradient; detach it, or use ordinary attention")
    if problems:
        raise ValueError("topk_attention: " + "; ".join(problems))
