"""The largest numbers of long rows: scores of Top-k attention, and words of a large vocabulary."""

from __future__ import annotations

import math
from typing import Tuple

import torch
from torch import Tensor

_LONG = 12  # times as many columns as are wanted: from there on groups save time, measured on a CPU
_LARGEST_GROUP = 32
_IN_CACHE = 1 << 21  # bytes of members of groups that a CPU has at a time: they are read again


def log_probabilities(logits: Tensor) -> Tensor:
    """The bits of ``torch.log_softmax(logits, dim=1, dtype=torch.float32)``: a search ranks by the last of them.

    On a CPU it takes no room for its result, so that malloc has nothing to return to the system after every step:
    logits in float32 are overwritten, others are copied once.

    Args:
        logits: may be overwritten. *Shape:* ``(rows, V)``.

    Returns:
        float32. *Shape:* ``(rows, V)``.
    """
    if logits.device.type != "cpu" or torch.is_grad_enabled():
        return torch.log_softmax(logits, dim=1, dtype=torch.float32)
    logits = logits.float()
    return torch.log_softmax(logits, dim=1, out=logits)


def largest(scores: Tensor, k: int) -> Tuple[Tensor, Tensor]:
    """The ``k`` largest of every row, in no order, and their places; all of a row, if it is not longer than ``k``.

    Args:
        scores: *Shape:* ``(..., V)``.

    Returns:
        values, and places as int64. *Shape:* ``(..., min(k, V))`` each.
    """
    length = scores.size(-1)
    if k >= length:
        return scores, torch.arange(length, device=scores.device).expand_as(scores)
    values, places = top_of_rows(scores.flatten(0, -2), k, largest_first=False)
    return values.view(*scores.shape[:-1], k), places.view(*scores.shape[:-1], k)


def top_of_rows(scores: Tensor, k: int, largest_first: bool = True) -> Tuple[Tensor, Tensor]:
    """Finds ``torch.topk(scores, k, dim=1)`` of long rows, searching only columns whose group has a large maximum.

    The ``V`` columns fall into groups of ``g``, every ``V / g``-th in the same one. The ``k`` largest of a row lie in
    the ``k`` groups with the largest maxima, which one pass over the row gives; only these are searched. Of all ``g``,
    the square root of ``V / k`` leaves the least to search: ``V / g`` maxima and ``k g`` members.

    Args:
        scores: *Shape:* ``(rows, V)``, ``V >= k``.
        largest_first: otherwise in no order.

    Returns:
        values and their columns. *Shape:* ``(rows, k)`` each. Which of equal values comes first, or is left out, is
        not defined, as in ``torch.topk``.
    """
    num_rows, num_columns = scores.shape
    if num_columns < _LONG * k or k == 0:
        return torch.topk(scores, k, dim=1, sorted=largest_first)
    group_size = min(1 << round(math.log2(num_columns / k) / 2), _LARGEST_GROUP)
    at_once = _rows_at_once(scores, group_size * k)
    if num_rows <= at_once:
        return _search_groups(scores, k, group_size, largest_first)
    values, columns = scores.new_empty(num_rows, k), scores.new_empty(num_rows, k, dtype=torch.long)
    for rows, *into in zip(scores.split(at_once), values.split(at_once), columns.split(at_once)):
        for target, found in zip(into, _search_groups(rows, k, group_size, largest_first)):
            target.copy_(found)
    return values, columns


def keep_largest(scores: Tensor, k: int) -> Tensor:
    """Sets all but the ``k`` largest scores of each row to minus infinity; of equal ones, exactly ``k`` stay.

    Args:
        scores: *Shape:* ``(..., n)``.
        k: at least 1.

    Returns:
        a new tensor, or ``scores`` itself where rows are not longer than ``k``. *Shape:* ``(..., n)``.
    """
    if k >= scores.size(-1):
        return scores
    top, where = torch.topk(scores, k, dim=-1, sorted=False)
    return torch.full_like(scores, float("-inf")).scatter(-1, where, top)


def _search_groups(scores: Tensor, k: int, group_size: int, largest_first: bool) -> Tuple[Tensor, Tensor]:
    num_rows, num_columns = scores.shape
    num_groups = num_columns // group_size
    rest = num_groups * group_size
    grouped = scores[:, :rest].view(num_rows, group_size, num_groups)  # a group is a column of this
    groups = torch.topk(grouped.amax(dim=1), k, dim=1, sorted=False)[1]
    found = grouped.gather(2, groups.unsqueeze(1).expand(-1, group_size, -1)).view(num_rows, -1)  # (rows, g*k)
    if rest < num_columns:
        found = torch.cat([found, scores[:, rest:]], dim=1)
    values, chosen = torch.topk(found, k, dim=1, sorted=largest_first)
    member = torch.div(chosen, k, rounding_mode="floor")  # of its group; from g on: of the rest
    columns = groups.gather(1, chosen.remainder(k)).add_(member, alpha=num_groups)
    if rest < num_columns:
        columns = torch.where(member < group_size, columns, chosen + (rest - group_size * k))
    return values, columns


def _rows_at_once(matrix: Tensor, numbers: int) -> int:
    """Returns how many rows, with so many numbers for each, stay in a CPU's cache; on other devices all rows."""
    if matrix.device.type != "cpu":
        return max(len(matrix), 1)
    return max(_IN_CACHE // (matrix.element_size() * max(numbers, 1)), 1)
