"""The k largest of every row, in their places: what Top-k attention leaves of scores that are all there."""

from __future__ import annotations

import torch
from torch import Tensor


def keep_largest(scores: Tensor, k: int) -> Tensor:
    """``scores`` with minus infinity but for the ``k`` largest of each row; of equal ones, exactly ``k`` stay.

    Args:
        scores: *Shape:* ``(..., n)``.
        k: from 1 on.
    """
    if k >= scores.size(-1):
        return scores
    top, where = torch.topk(scores, k, dim=-1, sorted=False)
    return torch.full_like(scores, float("-inf")).scatter(-1, where, top)
