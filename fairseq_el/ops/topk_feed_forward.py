"""The feed-forward layer as top-k attention: only the k largest of a token's ``f`` hidden units are kept.

Gupta et al., "Memory-efficient Transformers via Top-k Attention", 2021, arXiv 2106.06899, section 2.2:

    hidden = x W1^T + b1,   top, where = the k largest of every row,
    y = sum over j of activation(top_j) W2[:, where_j] + b2

Tokens are taken in chunks, so only the hidden units of one chunk exist at a time. For the gradients, k of them and
their places are saved. Symbols: ``N`` tokens, ``d`` width, ``f`` hidden units.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F  # noqa: N812

from fairseq_el.ops.selected_rows import index_dtype
from fairseq_el.ops.top_scores import largest

ACTIVATIONS = ("relu", "gelu")


def topk_feed_forward(
    x: Tensor,
    fc1_weight: Tensor,
    fc1_bias: Tensor | None,
    fc2_weight: Tensor,
    fc2_bias: Tensor | None,
    k: int,
    *,
    activation: str = "relu",
    chunk: int = 16384,
    dropout: float = 0.0,
) -> Tensor:
    """Feed-forward layer over the ``k`` largest hidden units of every token: their ``activation``, times ``W2``.

    With ``k >= f`` it is the ordinary layer. Differentiable (once) in ``x``, weights and biases.

    Args:
        x: *Shape:* ``(..., d)``.
        fc1_weight: *Shape:* ``(f, d)``, as ``nn.Linear`` keeps it.
        fc1_bias: *Shape:* ``(f)`` or None.
        fc2_weight: *Shape:* ``(d_out, f)``.
        fc2_bias: *Shape:* ``(d_out)`` or None.
        k: at least 1; units are compared before the activation.
        activation: ``"relu"``, or ``"gelu"`` (with the error function).
        chunk: how many tokens are computed at a time, at most.
        dropout: probability with which each of the ``k`` activations is dropped; the others grow to match.

    Returns:
        *Shape:* ``(..., d_out)``.

    Raises:
        ValueError: an argument has a wrong value; all problems are named.
    """
    options = _Options(k, activation, chunk, dropout)
    _check(options)
    tokens = x.reshape(-1, x.size(-1))  # (..., d) -> (N, d)
    parameters = (fc1_weight, fc1_bias, fc2_weight, fc2_bias)
    if torch.is_grad_enabled() and any(p is not None and p.requires_grad for p in (x, *parameters)):
        output: Tensor = _TopkFeedForward.apply(tokens, *parameters, options)
    else:
        output = _forward(tokens, *parameters, options, None)
    return output.view(*x.shape[:-1], -1)


@dataclass(frozen=True)
class _Options:
    """The arguments that get no gradient."""

    k: int
    activation: str
    chunk: int
    dropout: float


@dataclass(frozen=True)
class _Saved:
    """The tensors that the gradients need. *Shape:* ``(N, min(k, f))`` each."""

    top: Tensor  # hidden units before the activation
    where: Tensor
    alive: Tensor | None  # False where dropped


class _TopkFeedForward(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        fc1: Tensor,
        fc1_bias: Tensor | None,
        fc2: Tensor,
        fc2_bias: Tensor | None,
        options: _Options,
    ) -> Tensor:
        hidden_units = fc1.size(0)
        shape = (x.size(0), min(options.k, hidden_units))
        saved = _Saved(
            x.new_empty(shape),
            torch.empty(shape, dtype=index_dtype(hidden_units), device=x.device),
            torch.empty(shape, dtype=torch.bool, device=x.device) if options.dropout else None,
        )
        output = _forward(x, fc1, fc1_bias, fc2, fc2_bias, options, saved)
        ctx.save_for_backward(x, fc1, fc2, saved.top, saved.where, saved.alive)
        ctx.options, ctx.biases = options, (fc1_bias is not None, fc2_bias is not None)
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, fc1, fc2, *saved = ctx.saved_tensors
        of_x, of_fc1, of_fc1_bias, of_fc2 = _backward(grad, x, fc1, fc2, ctx.options, _Saved(*saved))
        has_fc1_bias, has_fc2_bias = ctx.biases
        of_fc2_bias = grad.sum(dim=0) if has_fc2_bias else None
        return of_x, of_fc1, of_fc1_bias if has_fc1_bias else None, of_fc2, of_fc2_bias, None


def _forward(
    x: Tensor,
    fc1: Tensor,
    fc1_bias: Tensor | None,
    fc2: Tensor,
    fc2_bias: Tensor | None,
    options: _Options,
    saved: _Saved | None,
) -> Tensor:
    output = x.new_empty(x.size(0), fc2.size(0))
    for begin in range(0, x.size(0), options.chunk):
        rows = slice(begin, begin + options.chunk)
        hidden = F.linear(x[rows], fc1, fc1_bias)  # (C, f)
        top, where = largest(hidden, options.k)
        active = _activate(top, options.activation)
        if options.dropout:
            alive = torch.empty_like(where, dtype=torch.bool).bernoulli_(1 - options.dropout)
            active = active * alive / (1 - options.dropout)
            if saved is not None and saved.alive is not None:
                saved.alive[rows] = alive
        if saved is not None:
            saved.top[rows], saved.where[rows] = top, where
        output[rows] = F.linear(hidden.zero_().scatter_(1, where, active), fc2, fc2_bias)
    return output


def _backward(
    grad: Tensor, x: Tensor, fc1: Tensor, fc2: Tensor, options: _Options, saved: _Saved
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    sum_dtype = torch.promote_types(x.dtype, torch.float32)  # of sums over chunks
    of_x = torch.empty_like(x)
    of_fc1, of_fc2 = (torch.zeros(w.shape, dtype=sum_dtype, device=x.device) for w in (fc1, fc2))
    of_fc1_bias = of_fc1.new_zeros(fc1.size(0))
    for begin in range(0, x.size(0), options.chunk):
        rows = slice(begin, begin + options.chunk)
        top, where = saved.top[rows], saved.where[rows].long()
        active, slope = _activate(top, options.activation), _slope(top, options.activation)
        if saved.alive is not None:
            factor = saved.alive[rows].to(x.dtype) / (1 - options.dropout)
            active, slope = active * factor, slope * factor
        of_output, given = grad[rows].to(fc2.dtype), x[rows].to(fc1.dtype)  # under autocast they may differ
        dense = of_output @ fc2  # (C, f): of the active units
        of_hidden = dense.gather(1, where) * slope
        dense.zero_().scatter_(1, where, of_hidden.to(dense.dtype))
        of_x[rows] = dense @ fc1
        of_fc1 += dense.t() @ given
        of_fc1_bias += dense.sum(dim=0)
        dense.scatter_(1, where, active.to(dense.dtype))  # the same places again
        of_fc2 += of_output.t() @ dense
    return of_x, of_fc1.to(fc1.dtype), of_fc1_bias.to(fc1.dtype), of_fc2.to(fc2.dtype)


def _activate(top: Tensor, activation: str) -> Tensor:
    return torch.relu(top) if activation == "relu" else F.gelu(top)


def _slope(top: Tensor, activation: str) -> Tensor:
    """The derivative of the activation. ``gelu(x) = x P(x)`` with ``P`` the normal distribution."""
    if activation == "relu":
        return (top > 0).to(top.dtype)
    exact = top.to(torch.promote_types(top.dtype, torch.float32))
    density = torch.exp(-0.5 * exact * exact) / math.sqrt(2 * math.pi)
    return (0.5 * (1 + torch.erf(exact / math.sqrt(2))) + exact * density).to(top.dtype)


def _check(options: _Options) -> None:
    problems = []
    if options.k < 1:
        problems.append(f"k must be at least 1; got {options.k}")
    if options.chunk < 1:
        problems.append(f"chunk must be at least 1; got {options.chunk}")
    if options.activation not in ACTIVATIONS:
        problems.append(f"activation must be one of {', '.join(ACTIVATIONS)}; got {options.activation!r}")
    if not 0.0 <= options.dropout < 1.0:
        problems.append(f"dropout must be at least 0 and below 1; got {options.dropout}")
    if problems:
        raise ValueError("topk_feed_forward: " + "; ".join(problems))
