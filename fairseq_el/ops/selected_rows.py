"""Selected rows of a tensor: products with a few rows of a matrix, and rows that stay when others are dropped.

:func:`sum_of_rows`, :func:`products_with_rows` and :meth:`Selection.sum_of_queries` serve many queries at once and
touch the selected rows only. Each has a sparse matrix as a factor, with ``k`` numbers in every row. torch's embedding
bags compute the first two on every device and in every dtype. The third is the first with the sparse matrix transposed.

Symbols: ``P`` matrices with ``n`` rows of width ``d``; ``C`` queries of each, which select ``k`` rows each.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from fairseq_el._compat import torch_version

_NO_BFLOAT16 = torch_version() < (2, 1)  # in embedding bags on a CPU


def index_dtype(length: int) -> torch.dtype:
    """The smallest type of integers that counts to ``length``: for indices that are kept for long."""
    return torch.int16 if length <= 1 << 15 else torch.int32


def sum_of_rows(table: Tensor, where: Tensor, weights: Tensor) -> Tensor:
    """The weighted sum of selected rows: ``out[p, c] = sum over j of weights[p, c, j] * table[p, where[p, c, j]]``.

    Args:
        table: *Shape:* ``(P, n, d)``.
        where: integers below ``n``. *Shape:* ``(P, C, k)``.
        weights: *Shape:* ``(P, C, k)``.

    Returns:
        *Shape:* ``(P, C, d)``, in the dtype of ``table``.
    """
    if where.numel() == 0:
        return table.new_zeros(*where.shape[:2], table.size(2))
    bags, dtype = _in_all(where, table.size(1)).flatten(0, 1), _dtype(table)
    summed = _bags(table.flatten(0, 1).to(dtype), bags, weights.reshape(bags.shape).to(dtype))
    return summed.to(table.dtype).view(*where.shape[:2], -1)


def products_with_rows(table: Tensor, where: Tensor, vectors: Tensor) -> Tensor:
    """Products of vectors with selected rows: ``out[p, c, j] = vectors[p, c] . table[p, where[p, c, j]]``.

    They are the gradient of :func:`sum_of_rows` for its weights.

    Args:
        table, where: as of :func:`sum_of_rows`.
        vectors: *Shape:* ``(P, C, d)``.

    Returns:
        *Shape:* ``(P, C, k)``, in the dtype of ``table``.
    """
    if where.numel() == 0:
        return table.new_zeros(where.shape)
    bags, dtype = _in_all(where, table.size(1)).flatten(0, 1), _dtype(table)
    with torch.enable_grad():
        rows = table.detach().flatten(0, 1).to(dtype).requires_grad_()  # as torch 1.12 wants it; it gets none
        weights = torch.zeros(bags.shape, dtype=dtype, device=table.device, requires_grad=True)
        summed = _bags(rows, bags, weights)
    (products,) = torch.autograd.grad(summed, weights, vectors.flatten(0, 1).to(dtype))
    return products.to(table.dtype).view(where.shape)


class Selection:
    """The queries that selected each row: ``where`` inverted."""

    def __init__(self, where: Tensor, num_rows: int):
        """Args: ``where``: integers below ``num_rows``. *Shape:* ``(P, C, k)``."""
        self._shape, self._num_rows = where.shape, num_rows
        selected, self._order = _in_all(where, num_rows).flatten().sort()
        rows = torch.arange(where.size(0) * num_rows, dtype=selected.dtype, device=where.device)
        self._first = torch.searchsorted(selected, rows, out_int32=True)  # selection of each row
        self._queries = torch.div(self._order, max(where.size(2), 1), rounding_mode="floor").to(torch.int32)

    def sum_of_queries(self, vectors: Tensor, weights: Tensor) -> Tensor:
        """Sums for each row: ``out[p, i] = sum of weights[p, c, j] * vectors[p, c]`` over all ``where[p, c, j] = i``.

        Args:
            vectors: *Shape:* ``(P, C, d)``.
            weights: *Shape:* ``(P, C, k)``.

        Returns:
            *Shape:* ``(P, n, d)``, in the dtype of ``vectors``.
        """
        if self._order.numel() == 0:
            return vectors.new_zeros(self._shape[0], self._num_rows, vectors.size(2))
        dtype = _dtype(vectors)
        weights = weights.flatten().index_select(0, self._order).to(dtype)
        summed = _bags(vectors.flatten(0, 1).to(dtype), self._queries, weights, self._first)
        return summed.to(vectors.dtype).view(-1, self._num_rows, vectors.size(2))


def _bags(rows: Tensor, bags: Tensor, weights: Tensor, first: Tensor | None = None) -> Tensor:
    return F.embedding_bag(bags, rows, first, per_sample_weights=weights, mode="sum")


def _in_all(where: Tensor, num_rows: int) -> Tensor:
    """Numbers the selected rows through all ``P`` matrices, one below the other."""
    first = torch.arange(where.size(0), dtype=torch.int32, device=where.device).view(-1, 1, 1) * num_rows
    return where.to(torch.int32).add_(first) if where.dtype != torch.int32 else where + first


def _dtype(table: Tensor) -> torch.dtype:
    return torch.float32 if _NO_BFLOAT16 and table.dtype == torch.bfloat16 and not table.is_cuda else table.dtype


_AT_ONCE = 1 << 20  # bytes moved at a time, at least: few calls, and on a CPU what is moved stays in its cache


def keep_rows(tensor: Tensor, rows: Tensor) -> Tensor:
    """Selects rows as ``tensor.index_select(0, rows)`` does, into the front of the tensor's own storage.

    An eighth of them is moved at a time, so no second tensor of that size is made.

    Args:
        tensor: overwritten. *Shape:* ``(N, ...)``.
        rows: ascending, so that no row is overwritten before it is read. *Shape:* ``(N')`` with ``N' <= N``.

    Returns:
        a view of the first ``N'`` rows.
    """
    count = rows.numel()
    of_a_row = max(tensor[:1].numel() * tensor.element_size(), 1)
    at_once = max(_AT_ONCE // of_a_row, -(-count // 8), 1)
    for begin in range(0, count, at_once):
        part = slice(begin, min(begin + at_once, count))
        tensor[part] = tensor.index_select(0, rows[part])
    return tensor[:count]


def storage_bytes(tensor: Tensor) -> int:
    """Bytes of the storage that a tensor is a view of."""
    storage = tensor.untyped_storage() if hasattr(tensor, "untyped_storage") else tensor.storage()
    return int(storage.nbytes())
