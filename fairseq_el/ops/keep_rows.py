"""Some rows of a tensor, without a second tensor."""

from __future__ import annotations

from torch import Tensor

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
