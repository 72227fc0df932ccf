"""Causal linear attention as prefix sums, in parallel, in chunks and one step at a time.

Likhosherstov et al., "Sub-Linear Memory: How to Make Performers SLiM", NeurIPS 2021, arXiv 2012.11346, section 2.2.
With features ``g(q)`` and ``g(k)`` in the place of queries and keys:

    R_l   = R_(l-1) + g(k_l) v_l^T        (M, dh)
    S_l   = S_(l-1) + g(k_l)              (M)
    out_l = g(q_l)^T R_l / (g(q_l)^T S_l)       (0 where no key has any feature in common with the query)

Within a chunk of ``c`` positions, attention is two dense products under a triangular mask; from chunk to chunk only the
sums at the chunk's beginning are carried. So there are ``L / c`` matrices ``R`` and never ``L`` of them.

Symbols: ``B`` sentences, ``L`` positions, ``h`` heads, ``M`` features, ``dh`` width of a head, ``N = L / c`` chunks.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional


class Sums(NamedTuple):
    """The state of linear attention: all that a position needs of those before it."""

    R: Tensor  # (B, h, M, dh)
    S: Tensor  # (B, h, M)


def sums_of(keys: Tensor, values: Tensor) -> Sums:
    """The sums over some positions. ``keys``: ``(B, L, h, M)``; ``values``: ``(B, L, h, dh)``."""
    return Sums(keys.permute(0, 2, 3, 1) @ values.transpose(1, 2), keys.sum(dim=1))  # (B, h, M, L) x (B, h, L, dh)


def linear_attention(
    queries: Tensor, keys: Tensor, values: Tensor, start: Sums | None = None, chunk: int | None = None
) -> tuple[Tensor, Sums]:
    """All positions in parallel.

    Its own backward pass keeps the arguments, the output and the denominators, ``L h (2 M + 2 dh + 1)`` numbers, and
    computes everything else again: a graph of plain operations would also keep ``N`` matrices ``R`` and the attention
    within chunks.

    Args:
        queries: features of queries. *Shape:* ``(B, L, h, M)``.
        keys: features of keys; zero where a position is hidden. *Shape:* ``(B, L, h, M)``.
        values: *Shape:* ``(B, L, h, dh)``.
        start: the sums before the first position (default: zero).
        chunk: ``c`` (default: ``M``, but 32 at least). Results do not depend on it, except for rounding.

    Returns:
        the output ``(B, L, h, dh)``, and the sums after the last position.

    Raises:
        ValueError: there is no position.
    """
    _check_length(keys)
    start = start or _no_sums(keys, values)
    chunk = chunk or min(max(keys.size(3), 32), keys.size(1))
    output, R, S = _LinearAttention.apply(queries, keys, values, start.R, start.S, chunk)
    return output, Sums(R, S)


def linear_attention_chunked(
    queries: Tensor, keys: Tensor, values: Tensor, start: Sums | None = None, chunk: int = 1024
) -> tuple[Tensor, Sums]:
    """One chunk after the other, with the sums handed on: the same result with working memory for a chunk only."""
    _check_length(keys)
    sums, outputs = start or _no_sums(keys, values), []
    for q, k, v in zip(queries.split(chunk, 1), keys.split(chunk, 1), values.split(chunk, 1)):
        output, sums = linear_attention(q, k, v, sums)
        outputs.append(output)
    return torch.cat(outputs, dim=1), sums


def linear_attention_step(query: Tensor, key: Tensor, value: Tensor, start: Sums) -> tuple[Tensor, Sums]:
    """One position: ``query`` and ``key`` ``(B, h, M)``, ``value`` ``(B, h, dh)`` to ``(B, h, dh)`` and the sums."""
    sums = Sums(start.R + key.unsqueeze(3) * value.unsqueeze(2), start.S + key)
    numerator = (query.unsqueeze(2) @ sums.R).squeeze(2)  # (B, h, 1, M) x (B, h, M, dh)
    denominator = (query * sums.S).sum(dim=2, keepdim=True)
    return numerator / _or_infinity(denominator), sums


def _or_infinity(denominator: Tensor) -> Tensor:
    """Infinity where no key answers: what is divided by it is zero, and so are its gradients."""
    smallest = torch.finfo(denominator.dtype).tiny
    return denominator.masked_fill(denominator <= smallest, float("inf"))


def _check_length(keys: Tensor) -> None:
    if keys.size(1) == 0:
        raise ValueError(f"linear attention needs at least one position; keys have the shape {tuple(keys.shape)}")


def _no_sums(keys: Tensor, values: Tensor) -> Sums:
    num_sentences, _, num_heads, num_features = keys.shape
    shape = (num_sentences, num_heads, num_features)
    return Sums(values.new_zeros(*shape, values.size(3)), values.new_zeros(shape))


def _split(x: Tensor, chunk: int) -> Tensor:
    """Splits positions into chunks, ``(B, L, h, w)`` to ``(B, h, N, c, w)``, with zeros at the end of the last."""
    num_sentences, length, num_heads, width = x.shape
    x = functional.pad(x, (0, 0, 0, 0, 0, -length % chunk))
    return x.view(num_sentences, -1, chunk, num_heads, width).permute(0, 3, 1, 2, 4)


def _join(x: Tensor, length: int) -> Tensor:
    """Joins chunks again, ``(B, h, N, c, w)`` to ``(B, L, h, w)``, not always contiguous."""
    num_sentences, num_heads, num_chunks, chunk, width = x.shape
    return x.permute(0, 2, 3, 1, 4).reshape(num_sentences, num_chunks * chunk, num_heads, width)[:, :length]


def _before(x: Tensor, start: Tensor) -> tuple[Tensor, Tensor]:
    """Sums before each chunk, ``(B, h, N, ...)``, and after the last.

    Args:
        x: the sums over each chunk alone.
        start: the sums before the first chunk.
    """
    through = torch.cat([start.unsqueeze(2), x], dim=2).cumsum_(dim=2)
    return through[:, :, :-1], through[:, :, -1].clone()  # a view would keep all of them in memory


def _after(x: Tensor, end: Tensor) -> tuple[Tensor, Tensor]:
    """Sums after each chunk, and over all chunks: :func:`_before` from the end."""
    after, whole = _before(x.flip(2), end)
    return after.flip(2), whole


class _LinearAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, queries: Tensor, keys: Tensor, values: Tensor, R0: Tensor, S0: Tensor, chunk: int) -> Any:  # noqa: N803
        length = queries.size(1)
        q, k, v = (_split(x, chunk) for x in (queries, keys, values))
        R, R_end = _before(k.transpose(3, 4) @ v, R0)  # (B, h, N, M, dh), (B, h, M, dh)
        S, S_end = _before(k.sum(dim=3), S0)  # (B, h, N, M), (B, h, M)
        weights = (q @ k.transpose(3, 4)).tril()  # (B, h, N, c, c)
        denominator = weights.sum(dim=4, keepdim=True) + q @ S.unsqueeze(4)  # (B, h, N, c, 1)
        denominator = _or_infinity(denominator)
        # contiguous: the caller views it as (B, L, h * dh), and would keep a copy beside it otherwise
        output = _join((weights @ v + q @ R) / denominator, length).contiguous()
        ctx.save_for_backward(queries, keys, values, R0, S0, output, _join(denominator, length))
        ctx.chunk = chunk
        return output, R_end, S_end

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: Tensor, grad_R: Tensor, grad_S: Tensor) -> Any:  # noqa: N803
        queries, keys, values, R0, S0, output, denominator = ctx.saved_tensors
        length, chunk = queries.size(1), ctx.chunk
        of_numerator = grad_output / denominator
        of_denominator = -(of_numerator * output).sum(dim=3, keepdim=True)
        q, k, v, n, e = (_split(x, chunk) for x in (queries, keys, values, of_numerator, of_denominator))

        of_weights = (n @ v.transpose(3, 4) + e).tril()
        R, _ = _before(k.transpose(3, 4) @ v, R0)
        S, _ = _before(k.sum(dim=3), S0)
        grad_queries = _join(of_weights @ k + n @ R.transpose(3, 4) + e * S.unsqueeze(3), length)
        del R, S

        grad_R, grad_R0 = _after(q.transpose(3, 4) @ n, grad_R)
        grad_S, grad_S0 = _after((q * e).sum(dim=3), grad_S)
        grad_keys = _join(of_weights.transpose(3, 4) @ q + v @ grad_R.transpose(3, 4) + grad_S.unsqueeze(3), length)
        del of_weights
        weights = (q @ k.transpose(3, 4)).tril()
        grad_values = _join(weights.transpose(3, 4) @ n + k @ grad_R, length)
        return grad_queries, grad_keys, grad_values, grad_R0, grad_S0, None
