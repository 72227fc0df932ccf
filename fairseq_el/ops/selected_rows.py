"""Sums of a few selected rows of a matrix, for many queries at once."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

_OLD = tuple(map(int, torch.__version__.split(".")[:2])) < (2, 1)  # its embedding bags know no bfloat16 on a CPU


def index_dtype(length: int) -> torch.dtype:
    """The smallest type of integers that counts to ``length``: indices that are kept for long are kept in it."""
    return torch.int16 if length <= 1 << 15 else torch.int32


def sum_of_rows(table: Tensor, indices: Tensor, weights: Tensor) -> Tensor:
    """``out[p, c] = sum over j of weights[p, c, j] * table[p, indices[p, c, j]]``: only selected rows are read.

    Args:
        table: *Shape:* ``(P, n, d)``.
        indices: of rows, below ``n``. *Shape:* ``(P, C, k)``, int64.
        weights: *Shape:* ``(P, C, k)``.

    Returns:
        *Shape:* ``(P, C, d)``, in the dtype of ``table``.
    """
    num_tables, length, width = table.shape
    num_queries, k = indices.shape[1:]
    if k == 0 or length == 0:
        return table.new_zeros(num_tables, num_queries, width)
    first = torch.arange(num_tables, device=table.device).view(-1, 1, 1) * length  # of each table, in all of them
    bags = (indices + first).view(-1, k)  # (P, C, k) -> (P*C, k)
    dtype = torch.float32 if _OLD and table.dtype == torch.bfloat16 and not table.is_cuda else table.dtype
    rows = table.reshape(-1, width).to(dtype)  # (P, n, d) -> (P*n, d)
    sums = F.embedding_bag(bags, rows, per_sample_weights=weights.reshape(-1, k).to(dtype), mode="sum")
    return sums.to(table.dtype).view(num_tables, num_queries, width)
