"""Top-k attention in its authors' way, to compare bytes with: dense products of a chunk, and places in 64 bits.

Gupta, Dar, Goodman, Ciprut, Berant, "Memory-efficient Transformers via Top-k Attention", 2021, arXiv 2106.06899,
section 2.1, as this project reads it. It is not their program. Queries are taken in chunks. Of a chunk the ``k`` scores
and places that ``torch.topk`` gives are kept, and whether their weights are dropped. Products with values and gradients
are of whole rows, in which all but ``k`` numbers are zero.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


@dataclass(frozen=True)
class _Options:
    k: int
    causal: bool
    chunk: int
    dropout: float


def authors_topk_attention(
    query: Tensor, key: Tensor, value: Tensor, k: int, causal: bool, chunk: int, dropout: float
) -> Tensor:
    """Attends to the ``k`` largest scores. *Shapes:* all ``(B, h, n, dh)``, queries scaled."""
    output: Tensor = _Attention.apply(query, key, value, _Options(k, causal, chunk, dropout))
    return output


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, options: _Options) -> Tensor:
        outputs, kept = [], []
        for begin in range(0, query.size(2), options.chunk):
            rows = query[:, :, begin : begin + options.chunk]
            scores = rows @ key.transpose(2, 3)  # (B, h, C, n)
            if options.causal:
                scores.masked_fill_(_future(begin, rows, key), float("-inf"))
            top, where = scores.topk(min(options.k, key.size(2)), dim=-1)
            weights = torch.softmax(top, dim=-1)
            factor = torch.nn.functional.dropout(torch.ones_like(top), options.dropout) if options.dropout else None
            outputs.append(_spread(weights if factor is None else weights * factor, where, scores) @ value)
            kept += [weights, where, None if factor is None else factor.bool()]
        ctx.save_for_backward(query, key, value, *kept)
        ctx.options = options
        return torch.cat(outputs, dim=2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Any:
        query, key, value, *kept = ctx.saved_tensors
        options = ctx.options
        of_query, of_key, of_value = torch.empty_like(query), torch.zeros_like(key), torch.zeros_like(value)
        for number, begin in enumerate(range(0, query.size(2), options.chunk)):
            rows = slice(begin, begin + options.chunk)
            weights, where, alive = kept[3 * number : 3 * number + 3]
            dense = grad[:, :, rows] @ value.transpose(2, 3)  # of the weights
            of_weights, dropped = dense.gather(3, where), weights
            if alive is not None:
                factor = alive.to(weights.dtype) / (1 - options.dropout)
                of_weights, dropped = of_weights * factor, weights * factor
            of_value += _spread(dropped, where, dense).transpose(2, 3) @ grad[:, :, rows]
            of_top = weights * (of_weights - (weights * of_weights).sum(dim=-1, keepdim=True))
            of_scores = _spread(of_top, where, dense)
            of_query[:, :, rows] = of_scores @ key
            of_key += of_scores.transpose(2, 3) @ query[:, :, rows]
        return of_query, of_key, of_value, None


def _spread(numbers: Tensor, where: Tensor, rows: Tensor) -> Tensor:
    """Puts ``k`` numbers a row at their places, and zeros elsewhere. *Shape:* of ``rows``, which are overwritten."""
    return rows.zero_().scatter_(3, where, numbers)


def _future(begin: int, rows: Tensor, key: Tensor) -> Tensor:
    """True where a key comes after the query. *Shape:* ``(C, n)``."""
    return torch.ones(rows.size(2), key.size(2), dtype=torch.bool, device=rows.device).triu(begin + 1)
