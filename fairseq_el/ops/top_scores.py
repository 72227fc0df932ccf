"""The best words of a softmax over a large vocabulary, without computing its output."""

from __future__ import annotations

from typing import Tuple

import torch
from torch import Tensor

_IN_CACHE = 1 << 21  # bytes of exponentials that a CPU has at a time: they are read again at once


def log_normalizer(logits: Tensor) -> Tuple[Tensor, Tensor]:
    """What ``log_softmax`` subtracts: ``log_softmax(x) = (x - maximum) - log_sum``.

    Args:
        logits: *Shape:* ``(rows, V)``.

    Returns:
        the maximum and the logarithm of the sum of ``exp(x - maximum)``. *Shape:* ``(rows, 1)`` each.
    """
    maximum = logits.amax(dim=1, keepdim=True)
    rows = max(len(logits), 1)
    if logits.device.type == "cpu":
        rows = max(_IN_CACHE // (logits.element_size() * logits.size(1)), 1)
    total = torch.empty_like(maximum)
    for part, most, into in zip(logits.split(rows), maximum.split(rows), total.split(rows)):
        torch.sum((part - most).exp_(), dim=1, keepdim=True, out=into)
    return maximum, total.log_()


def top_of_rows(scores: Tensor, k: int) -> Tuple[Tensor, Tensor]:
    """``torch.topk(scores, k, dim=1)`` for long rows: columns are searched only where a maximum says that it pays.

    The ``V`` columns fall into groups of ``g``, every ``V / g``-th in the same one. The ``k`` largest of a row lie in
    the ``k`` groups with the largest maxima, which one pass over the row gives; only these are searched.

    Args:
        scores: *Shape:* ``(rows, V)``, ``V >= k``.

    Returns:
        values, largest first, and their columns. *Shape:* ``(rows, k)`` each. Which of equal values comes first is not
        defined, as in ``torch.topk``.
    """
    num_rows, num_columns = scores.shape
    group_size = max(8, min(32, num_columns // 1024))
    num_groups = num_columns // group_size
    if num_groups < 4 * k:
        return torch.topk(scores, k, dim=1)
    rest = num_groups * group_size
    grouped = scores[:, :rest].view(num_rows, group_size, num_groups)  # a group is a column of this
    groups = torch.topk(grouped.amax(dim=1), k, dim=1, sorted=False)[1].unsqueeze(1).expand(-1, group_size, -1)
    found = grouped.gather(2, groups).view(num_rows, -1)  # (rows, g, k) -> (rows, g*k)
    members = torch.arange(group_size, device=scores.device).view(1, -1, 1) * num_groups
    columns = (groups + members).view(num_rows, -1)
    if rest < num_columns:
        found = torch.cat([found, scores[:, rest:]], dim=1)
        left = torch.arange(rest, num_columns, device=scores.device).expand(num_rows, -1)
        columns = torch.cat([columns, left], dim=1)
    values, chosen = torch.topk(found, k, dim=1)
    return values, columns.gather(1, chosen)
