"""Gradients of a loss over a long sequence in memory for a slice of it: the SLiM Performer's training algorithm.

Likhosherstov et al., "Sub-Linear Memory: How to Make Performers SLiM", NeurIPS 2021, arXiv 2012.11346, Algorithm 1.
In causal linear attention, :class:`~fairseq_el.ops.Sums` are all that a slice of a sequence knows of those before. So

- forward, slice by slice and without a graph, only the loss and the sums of every layer at the end are kept;
- backward, from the last slice to the first, a slice is run again, with a graph. Its sums at the beginning are those
  at its end less what it adds, and exactly zero in the first slice. Through them the gradient flows on to the slice
  before.

Activations in memory are those of one slice, whatever the length of the sequence.

The backward pass subtracts what the forward pass added, computed in the same way. Sums between slices are kept in twice
float64's precision, so that subtracting gives back the sums before. Rounding does not pile up from slice to slice, and
a feature that no key had yet (as ``relu`` makes some) is exactly zero again.
"""

from __future__ import annotations

from typing import Any, Callable, List, Protocol, Tuple

import torch
from torch import Tensor

from fairseq_el.ops.linear_attention import Sums, linear_attention, sums_of


class Attend(Protocol):
    """A function that layers attend with. Each calls it with its number and a slice's ``g(q)``, ``g(k)`` and ``v``.

    *Shapes:* ``(B, t, h, M)``, ``(B, t, h, M)`` and ``(B, t, h, dh)`` to ``(B, t, h, dh)``.
    """

    def __call__(self, layer: int, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor: ...


RunSlice = Callable[[int, Attend], Tensor]  # the loss of a slice, given its number: a sum, of no dimensions


def attend_within(layer: int, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """The :class:`Attend` of a sequence in one piece."""
    return linear_attention(queries, keys, values)[0]


def sliced_loss(run_slice: RunSlice, num_slices: int) -> Tensor:
    """The sum of the slices' losses, with gradients as if the sequence were one slice.

    Args:
        run_slice: it must compute the same whenever it is called (no active dropout). Its parameters get their
            gradients directly, as in ``Tensor.backward()``; ``torch.autograd.grad`` sees none.
        num_slices: they are numbered from 0, in the order of the sequence.
    """
    anchor = torch.zeros((), requires_grad=torch.is_grad_enabled())  # makes autograd call backward
    loss: Tensor = _SlicedLoss.apply(anchor, run_slice, num_slices)
    return loss


class _SlicedLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, anchor: Tensor, run_slice: RunSlice, num_slices: int) -> Tensor:
        sums = _CarriedSums()
        losses = [run_slice(index, sums.attend) for index in range(num_slices)]
        ctx.run_slice, ctx.num_slices, ctx.ends = run_slice, num_slices, sums.of_layers
        return torch.stack(losses).sum()

    @staticmethod
    def backward(ctx: Any, grad_loss: Tensor) -> Any:
        ends: List[_ExactSums] = ctx.ends
        grads: List[List[Any]] = []  # of the loss of all later slices, by the sums at the end of this one
        for index in reversed(range(ctx.num_slices)):
            rewound = _RewoundSums(ends, is_first=index == 0)
            with torch.enable_grad():
                roots = [ctx.run_slice(index, rewound.attend)]
            seeds = [grad_loss]
            for end, grad in zip(rewound.ends, grads):
                needed = [i for i in range(2) if end[i].requires_grad]  # frozen layers may need none
                roots += [end[i] for i in needed]
                seeds += [grad[i] for i in needed]
            torch.autograd.backward(roots, seeds)
            ends, grads = rewound.starts, [[tensor.grad for tensor in leaf] for leaf in rewound.leaves]
        return None, None, None


class _ExactSums:
    """Sums in twice float64's precision: rounded totals, and the rest that rounding left out."""

    def __init__(self, total: Sums, rest: Sums):
        self.total, self.rest = total, rest

    @staticmethod
    def zeros(like: Sums) -> _ExactSums:
        nothing = Sums(*(torch.zeros_like(tensor, dtype=torch.float64) for tensor in like))
        return _ExactSums(nothing, nothing)

    def plus(self, added: Sums, sign: int = 1) -> _ExactSums:
        pairs = [
            _add_exactly(total, rest, sign * new.to(torch.float64))
            for total, rest, new in zip(self.total, self.rest, added)
        ]
        totals, rests = zip(*pairs)
        return _ExactSums(Sums(*totals), Sums(*rests))

    def rounded(self, dtype: torch.dtype) -> Sums:
        return Sums(*((total + rest).to(dtype) for total, rest in zip(self.total, self.rest)))


def _add_exactly(total: Tensor, rest: Tensor, new: Tensor) -> Tuple[Tensor, Tensor]:
    """Adds by Knuth's two-sum: gives ``total + new``, and ``rest`` with the error of rounding it."""
    result = total + new
    taken = result - total
    return result, rest + ((total - (result - taken)) + (new - taken))


class _CarriedSums:
    """Every layer's sums over all slices so far."""

    def __init__(self) -> None:
        self.of_layers: List[_ExactSums] = []

    def attend(self, layer: int, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        added = sums_of(keys, values)
        if layer == len(self.of_layers):
            self.of_layers.append(_ExactSums.zeros(added))
        start = self.of_layers[layer]
        self.of_layers[layer] = start.plus(added)
        return linear_attention(queries, keys, values, start.rounded(values.dtype))[0]


class _RewoundSums:
    """Every layer's sums at both ends of a slice, for its backward pass.

    Attributes:
        starts: at the beginning.
        leaves: the same as leaves of the graph; those of the first slice need no gradient.
        ends: at the end, computed from the leaves.
    """

    def __init__(self, known_ends: List[_ExactSums], is_first: bool):
        self._known_ends, self._is_first = known_ends, is_first
        self.starts: List[_ExactSums] = []
        self.leaves: List[Sums] = []
        self.ends: List[Sums] = []

    def attend(self, layer: int, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        with torch.no_grad():
            added = sums_of(keys, values)
            start = _ExactSums.zeros(added) if self._is_first else self._known_ends[layer].plus(added, sign=-1)
        leaf = Sums(*(tensor.requires_grad_(not self._is_first) for tensor in start.rounded(values.dtype)))
        output, reached = linear_attention(queries, keys, values, leaf)
        self.starts.append(start)
        self.leaves.append(leaf)
        self.ends.append(reached)
        return output
