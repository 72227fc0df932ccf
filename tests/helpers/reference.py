"""Naive twins of the operations in ``fairseq_el.ops``: their specification, one head and one sentence at a time.

Symbols as in ``docs/design.md``: ``B`` sentences,
``b`` beams, ``h`` heads, ``d`` width of the memory, ``dh`` width of a head, ``n`` length of the memory.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def multihead_attention(
    query: Tensor,
    memory: Tensor,
    key_weight: Tensor,
    key_bias: Tensor | None,
    value_weight: Tensor,
    value_bias: Tensor | None,
    key_padding_mask: Tensor | None = None,
    attn_mask: Tensor | None = None,
    k: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Multi-head attention as it is usually written: keys and values are built, head by head.

    Args:
        query: projected and scaled queries. *Shape:* ``(B, b, h, dh)``.
        memory: what keys and values are built from. *Shape:* ``(B, n, d)``.
        key_weight, value_weight: *Shape:* ``(h * dh, d)``, as ``nn.Linear`` keeps them.
        key_bias, value_bias: *Shape:* ``(h * dh)`` or None.
        key_padding_mask: True where a position of the memory is hidden. *Shape:* ``(B, n)``.
        attn_mask: True where a position of the memory is hidden from one query. *Shape:* ``(B, b, n)``.
        k: only so many of the largest scores enter the softmax.

    Returns:
        the heads' outputs ``(B, b, h, dh)`` and the attention weights ``(B, b, h, n)``.
    """
    num_sentences, num_beams, num_heads, head_dim = query.shape
    output = torch.empty_like(query)
    weights = query.new_empty(num_sentences, num_beams, num_heads, memory.size(1))
    for s in range(num_sentences):
        for i in range(num_heads):
            rows = slice(i * head_dim, (i + 1) * head_dim)
            key = memory[s] @ key_weight[rows].T  # (n, d) x (d, dh)
            value = memory[s] @ value_weight[rows].T
            key = key if key_bias is None else key + key_bias[rows]
            value = value if value_bias is None else value + value_bias[rows]
            for j in range(num_beams):
                scores = key @ query[s, j, i]
                if key_padding_mask is not None:
                    scores = scores.masked_fill(key_padding_mask[s], float("-inf"))
                if attn_mask is not None:
                    scores = scores.masked_fill(attn_mask[s, j], float("-inf"))
                if k is not None:
                    scores = only_the_largest(scores, k)
                weights[s, j, i] = torch.softmax(scores, dim=0)
                output[s, j, i] = weights[s, j, i] @ value
    return output, weights


def block_repeated_ngrams(scores: Tensor, tokens: Tensor, ngram_size: int) -> Tensor:
    """``scores`` ``(rows, V)`` without the words that would repeat an n-gram of ``tokens`` ``(rows, t)``.

    The first symbol counts as a word in n-grams of two words and more.
    """
    result = scores.clone()
    for row, words in enumerate(tokens.tolist()):
        known = {tuple(words[i : i + ngram_size]) for i in range(ngram_size == 1, len(words) - ngram_size + 1)}
        end = words[len(words) - ngram_size + 1 :]
        for word in range(scores.size(1)):
            if (*end, word) in known:
                result[row, word] = float("-inf")
    return result


def top_of_rows(scores: Tensor, k: int) -> Tensor:
    """The ``k`` largest of each row of ``scores`` ``(rows, V)``, largest first. *Shape:* ``(rows, k)``."""
    return torch.stack([torch.tensor(sorted(row, reverse=True)[:k], dtype=scores.dtype) for row in scores.tolist()])


def topk_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    k: int,
    key_padding_mask: Tensor | None = None,
    attn_mask: Tensor | None = None,
    causal: bool = False,
    factors: Tensor | None = None,
) -> Tensor:
    """All scores, minus infinity where they are not among the ``k`` largest, softmax, all values.

    Args:
        query: scaled. *Shape:* ``(B, h, t, dh)``.
        key: *Shape:* ``(B, h, n, dh)``.
        value: *Shape:* ``(B, h, n, dv)``.
        key_padding_mask: True where a key is hidden. *Shape:* ``(B, n)``.
        attn_mask: True where a key is hidden from a query, or numbers to add. *Shape:* ``(B, h, t, n)``, broadcast.
        causal: query ``i`` sees the keys up to ``i + n - t``.
        factors: of the weights, as dropout has them. *Shape:* ``(B, h, t, n)``.

    Returns:
        *Shape:* ``(B, h, t, dv)``; zeros where a query sees nothing.
    """
    t, n = query.size(2), key.size(2)
    scores = query @ key.transpose(2, 3)
    if attn_mask is not None:
        scores = scores.masked_fill(attn_mask, float("-inf")) if attn_mask.dtype == torch.bool else scores + attn_mask
    if key_padding_mask is not None:
        scores = scores.masked_fill(key_padding_mask[:, None, None], float("-inf"))
    if causal:
        scores = scores.masked_fill(torch.ones(t, n, dtype=torch.bool).triu(1 + n - t), float("-inf"))
    scores = only_the_largest(scores, k)
    sees_nothing = (scores == float("-inf")).all(dim=-1, keepdim=True)
    weights = torch.softmax(scores.masked_fill(sees_nothing, 0.0), dim=-1).masked_fill(sees_nothing, 0.0)
    return (weights if factors is None else weights * factors) @ value


def topk_feed_forward(
    x: Tensor,
    fc1_weight: Tensor,
    fc1_bias: Tensor | None,
    fc2_weight: Tensor,
    fc2_bias: Tensor | None,
    k: int,
    activation: str = "relu",
    factors: Tensor | None = None,
) -> Tensor:
    """All hidden units; the activation of those that are not among the ``k`` largest is set to zero.

    Args:
        x: *Shape:* ``(N, d)``.
        fc1_weight, fc2_weight: *Shape:* ``(f, d)``, ``(d, f)``.
        factors: of the activations, as dropout has them. *Shape:* ``(N, f)``.

    Returns:
        *Shape:* ``(N, d)``.
    """
    hidden = functional.linear(x, fc1_weight, fc1_bias)
    active = torch.relu(hidden) if activation == "relu" else functional.gelu(hidden)
    active = active.masked_fill(only_the_largest(hidden, k) == float("-inf"), 0.0)
    return functional.linear(active if factors is None else active * factors, fc2_weight, fc2_bias)


def only_the_largest(scores: Tensor, k: int) -> Tensor:
    """Minus infinity where a number is not among the ``k`` largest of its row."""
    values, places = torch.topk(scores, min(k, scores.size(-1)), dim=-1)
    return torch.full_like(scores, float("-inf")).scatter(-1, places, values)


def causal_linear_attention(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """Linear attention as its definition has it: every position looks at every earlier one and at itself.

    Args:
        queries, keys: features, never negative. *Shape:* ``(B, L, h, M)``.
        values: *Shape:* ``(B, L, h, dh)``.

    Returns:
        *Shape:* ``(B, L, h, dh)``; zero where no key has any feature in common with the query.
    """
    output = torch.zeros_like(values)
    for s in range(queries.size(0)):
        for i in range(queries.size(2)):
            for position in range(queries.size(1)):
                weights = keys[s, : position + 1, i] @ queries[s, position, i]
                if weights.sum() > 0:
                    output[s, position, i] = (weights / weights.sum()) @ values[s, : position + 1, i]
    return output


def int8_linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """A linear layer of whole numbers, one row of ``x`` and one of the weight at a time.

    Args:
        x: *Shape:* ``(rows, in)``.
        weight: *Shape:* ``(out, in)``.
        bias: *Shape:* ``(out)`` or None.

    Returns:
        *Shape:* ``(rows, out)``, in float64.
    """
    output = torch.zeros(len(x), len(weight), dtype=torch.float64)
    for i, row in enumerate(x):
        for j, column in enumerate(weight):
            (numbers, scale), (weights, weight_scale) = _whole_numbers(row), _whole_numbers(column)
            total = sum(a * b for a, b in zip(numbers, weights))
            output[i, j] = total * scale * weight_scale + (0.0 if bias is None else float(bias[j]))
    return output


def _whole_numbers(row: Tensor) -> tuple[list[int], float]:
    scale = row.abs().max() / 127
    return [round(float(x / scale)) if scale > 0 else 0 for x in row], float(scale)
