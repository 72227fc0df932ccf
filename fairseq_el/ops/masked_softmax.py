"""Softmax over the positions that a query sees."""

from __future__ import annotations

import torch
from torch import Tensor


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
