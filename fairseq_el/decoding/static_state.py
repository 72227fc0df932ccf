"""A decode state whose storage stays in place, so that a step is the same work on a device every time.

Pools have a capacity that steps do not change. Where the newest nodes go is a number on the device, and what a beam
does not see is a mask over the whole capacity, which follows the beams in place. So nothing that a step does depends
on the number of the step, and a CUDA graph can replay it. Symbols are those of :mod:`fairseq_el.decoding.beam_tree`.
"""

from __future__ import annotations

from typing import Callable, Tuple

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from fairseq_el.decoding.beam_tree import BeamTree, select_nodes
from fairseq_el.decoding.decode_state import DecodeState, Pass
from fairseq_el.decoding.linears import JoinedLinears
from fairseq_el.ops import keep_rows, storage_bytes
from fairseq_el.policy import static_capacity


class StaticTree(BeamTree):
    """The nodes of one batch, in storage that stays in place between two calls of :meth:`make_room` or :meth:`keep`.

    Attributes:
        hidden: True where a node is hidden from a beam; or, in kv self-attention, minus infinity there and 0 elsewhere.
            *Shape:* ``(B, b, capacity)``.
        places: of the newest nodes, on the device. *Shape:* ``(b)``.
    """

    def __init__(self, tree: BeamTree, steps_left: int, mask_dtype: torch.dtype):
        """
        Args:
            tree: whose nodes these are; nothing is left there.
            steps_left: most steps that there will be.
            mask_dtype: of :attr:`hidden`.
        """
        super().__init__(tree.num_sentences, tree.beam_size)
        self.num_nodes, self.prompt_length = tree.num_nodes, tree.prompt_length
        ancestry, pools = tree.release()
        while pools:  # keys and values of a layer become one pool, of twice as many heads; one layer after the other
            layer, of_layer = pools.popitem()
            self._pools[layer] = of_layer if len(of_layer) == 1 else [torch.cat(of_layer, dim=1)]
        self.capacity = ancestry.size(2)
        visible = ancestry[:, :, : self.num_nodes]
        hidden = F.pad(visible, (0, self.capacity - self.num_nodes)).logical_not()
        self._hides = True if mask_dtype == torch.bool else float("-inf")
        self.hidden = hidden if mask_dtype == torch.bool else _as_numbers(hidden, mask_dtype)
        own = ~torch.eye(self.beam_size, dtype=torch.bool, device=ancestry.device)
        self._own = own if mask_dtype == torch.bool else _as_numbers(own, mask_dtype)  # (b, b)
        self.places = torch.arange(self.beam_size, device=ancestry.device)
        self.make_room(steps_left)

    @property
    def is_full(self) -> bool:
        return self.num_nodes + self.beam_size > self.capacity

    def add_nodes(self) -> None:
        """Makes one node for every beam, at :attr:`places`. What hides others' nodes is written in place."""
        own = self._own.expand(self.num_sentences, -1, -1)
        self.hidden.index_copy_(2, self.places, own)

    def store(self, layer: str, part: slice, nodes: Tuple[Tensor, ...]) -> Tuple[Tensor, ...]:
        """Puts the newest nodes of all sentences into a layer's pools, and returns the pools with their whole room."""
        pools = self._pools[layer]
        for pool, new in zip(pools, nodes):
            pool.index_copy_(2, self.places, new)
        return tuple(pools)

    def reorder(self, parents: Tensor) -> None:
        """Follows the beams in place, and moves :attr:`places` on. ``parents``: ``(B, b)``."""
        self.hidden.copy_(self.hidden.gather(1, parents.unsqueeze(2).expand(-1, -1, self.capacity)))
        self.places.add_(self.beam_size)

    def count_step(self) -> None:
        """Counts the nodes of a step on the host, which did not compute it or did not wait for it."""
        self.num_nodes += self.beam_size
        self.num_steps += 1
        self.reorder_bytes += self.hidden.numel() * self.hidden.element_size()

    def make_room(self, steps_left: int) -> bool:
        """Drops dead nodes, and gives the pools room for more. The host waits for the number of living nodes.

        Returns:
            whether the storage is new.
        """
        living = self.hidden.ne(self._hides).any(dim=1)  # (B, capacity)
        num_nodes = _most(living)
        capacity = static_capacity(num_nodes, self.beam_size, steps_left)
        if capacity < self.capacity and num_nodes + self.beam_size <= self.capacity and self.capacity % 16 == 0:
            capacity = self.capacity  # storage that is there stays
        living_first = torch.sort(living.to(torch.uint8), dim=1, descending=True, stable=True)[1]
        spare = (0, capacity - num_nodes)
        nodes = living_first[:, :num_nodes]  # (B, U)
        hidden = self.hidden.gather(2, nodes.unsqueeze(1).expand(-1, self.beam_size, -1))
        hidden = F.pad(hidden, spare, value=self._hides)
        nodes = F.pad(nodes, spare)  # node 0 again, as a filler that is finite
        is_new = capacity != self.capacity
        self.hidden = hidden if is_new else self.hidden.copy_(hidden)
        self.capacity, self.num_nodes = capacity, num_nodes
        self._replace_pools(self._mover(nodes, is_new))
        self.places.copy_(torch.arange(num_nodes, num_nodes + self.beam_size, device=self.places.device))
        return is_new

    def _mover(self, nodes: Tensor, is_new: bool) -> Callable[[Tensor], Tensor]:
        def moved(pool: Tensor) -> Tensor:
            selected = select_nodes(pool.contiguous(), nodes)
            return selected if is_new else pool.copy_(selected)

        return moved

    def keep(self, sentences: Tensor) -> None:
        self.num_sentences = sentences.numel()
        self.hidden = keep_rows(self.hidden, sentences)
        self._replace_pools(lambda pool: keep_rows(pool, sentences))

    def living_nodes(self) -> Tensor:
        return self.hidden.ne(self._hides).any(dim=1).sum(dim=1)

    def capacity_bytes(self) -> int:
        return super().capacity_bytes() + storage_bytes(self.hidden)


class StaticState(DecodeState):
    """The state that beams share while steps stay in place.

    Attributes:
        tree: a :class:`StaticTree`.
    """

    tree: StaticTree

    def __init__(self, state: DecodeState, steps_left: int, keeps_keys: bool, dtype: torch.dtype):
        """
        Args:
            state: after prompts and maybe some steps. Its nodes and its source move here.
            steps_left: most steps that there will be.
            keeps_keys: whether nodes are keys and values, and self-attention takes its mask as numbers.
            dtype: of the decoder.
        """
        super().__init__(state.num_sentences, state.beam_size, None, state.backend, JoinedLinears(state.linears))
        adds = keeps_keys and dtype != torch.float64  # in float64 a softmax in float32 must see what is hidden
        self.tree = StaticTree(state.tree, steps_left, dtype if adds else torch.bool)
        self.source, self.layer_functions = state.source, state.layer_functions
        self._begin_storage()

    def _begin_storage(self) -> None:
        """One pass serves all steps over the same storage, with the masks made of it."""
        self.current = Pass(in_prompt=False, part=slice(None), hidden=self.tree.hidden)

    def make_room(self, steps_left: int) -> bool:
        """Does :meth:`StaticTree.make_room`."""
        is_new = self.tree.make_room(steps_left)
        if is_new:
            self._begin_storage()
        return is_new

    def keep(self, sentences: Tensor) -> None:
        """Drops all other sentences, in place, but for the encoder's output. ``sentences``: ``(B')``, ascending."""
        self.tree.keep(sentences)
        self.source.keep(sentences)
        self._begin_storage()


def _most(living: Tensor) -> int:
    """The most living nodes of a sentence. Waits for the device. ``living``: ``(B, U)``."""
    return int(living.sum(dim=1).max())


def _as_numbers(hidden: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.zeros(hidden.shape, dtype=dtype, device=hidden.device).masked_fill_(hidden, float("-inf"))
