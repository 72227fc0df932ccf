"""The past of all beams as one tree of nodes per sentence: pools of nodes, and the ancestry of each beam.

A *node* is one word at one place of one hypothesis. Every decoder layer has a pool of nodes per sentence, and chooses
what it keeps of a node: its input for EL-attention, a key and a value otherwise. One *ancestry* mask, shared by all
layers, marks the nodes that lie on each beam's path:

- following the beams after a step of the search permutes rows of the mask. No cache is copied;
- a past that beams share is stored once, whatever their number; a prompt is just the first nodes;
- nodes that no living beam descends from are dropped when the pools are full, before they grow.

Symbols: ``B`` sentences, ``b`` beams, ``U`` nodes in use, ``g`` groups (heads, or 1) and ``w`` width of a pool.
"""

from __future__ import annotations

from typing import Callable, Dict, List, Optional, Tuple

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from fairseq_el.ops import keep_rows, storage_bytes
from fairseq_el.policy import capacity_for


class BeamTree:
    """The nodes of one batch. Its parts are numbered alike in all pools and in the ancestry.

    Attributes:
        num_sentences, beam_size: ``B`` and ``b``.
        num_nodes: ``U``.
        capacity: nodes that the pools have room for.
        ancestry: True where a node lies on a beam's path; None before the first pass. *Shape:* ``(B, b, capacity)``.
        prompt_length: words of the longest prompt, the first symbol included.
        num_steps: steps begun so far, prompts not counted.
        reorder_bytes: bytes copied so far to follow the beams.
        compaction_bytes: bytes copied so far to drop dead nodes and finished sentences.
    """

    def __init__(self, num_sentences: int, beam_size: int, max_steps: Optional[int] = None):
        """``max_steps``: most steps that there will be, if known; pools do not grow beyond what these can use."""
        self.num_sentences = num_sentences
        self.beam_size = beam_size
        self.max_steps = max_steps
        self.prompt_length = 0
        self.num_steps = 0
        self.num_nodes = 0
        self.capacity = 0
        self.ancestry: Optional[Tensor] = None
        self.reorder_bytes = 0
        self.compaction_bytes = 0
        self._pools: Dict[str, List[Tensor]] = {}  # layer -> tensors (B, g, capacity, w)

    def begin_prompt(self, length: int, lengths: Optional[Tensor], device: torch.device) -> None:
        """Makes the first nodes, if this is the first part of the batch that reads its prompts.

        Args:
            length: words of the longest prompt, its first symbol included.
            lengths: of each prompt, or None if all have ``length`` words. *Shape:* ``(B)``.
        """
        if self.ancestry is not None:
            return
        self.num_nodes = self.prompt_length = length
        self.capacity = self._limited(capacity_for(length, self.beam_size))
        nodes = torch.arange(self.capacity, device=device)
        ends = length if lengths is None else lengths.view(-1, 1, 1)
        self.ancestry = (nodes < ends).expand(self.num_sentences, self.beam_size, -1).contiguous()

    def begin_step(self, device: torch.device, in_search: Optional[Tensor] = None) -> Tensor:
        """Makes one node for every beam.

        Args:
            in_search: False where a sentence is still within its prompt; no beam descends from its new nodes.
                *Shape:* ``(B)``.

        Returns:
            True where a node is hidden from a beam, because it is not on its path. *Shape:* ``(B, b, U)``.
        """
        if self.ancestry is None:
            self.ancestry = torch.zeros(self.num_sentences, self.beam_size, 0, dtype=torch.bool, device=device)
        if self.num_nodes + self.beam_size > self.capacity:
            self._make_room()
        new = slice(self.num_nodes, self.num_nodes + self.beam_size)
        own = torch.eye(self.beam_size, dtype=torch.bool, device=device)
        self.ancestry[:, :, new] = own if in_search is None else own & in_search.view(-1, 1, 1)
        self.num_nodes += self.beam_size
        self.num_steps += 1
        return ~self.ancestry[:, :, : self.num_nodes]

    def store(self, layer: str, part: slice, nodes: Tuple[Tensor, ...]) -> Tuple[Tensor, ...]:
        """Puts the newest nodes into a layer's pools.

        Args:
            layer: any name, always the same for a layer.
            part: the sentences that the nodes are of.
            nodes: one tensor for each of the layer's pools. *Shape:* ``(B', g, queries, w)``.

        Returns:
            each pool with all nodes so far; views, not copies. *Shape:* ``(B', g, U, w)``.
        """
        pools = self._pools.get(layer)
        if pools is None:  # zeros, not empty: a hidden node weighs nothing, but nothing times NaN is NaN
            pools = [n.new_zeros(self.num_sentences, n.size(1), self.capacity, n.size(3)) for n in nodes]
            self._pools[layer] = pools
        stored = [pool[part, :, : self.num_nodes] for pool in pools]
        for pool, new in zip(stored, nodes):
            pool[:, :, self.num_nodes - new.size(2) :] = new
        return tuple(stored)

    def reorder(self, parents: Tensor) -> None:
        """Follows the beams. ``parents``: the beam that each beam continues. *Shape:* ``(B, b)``."""
        assert self.ancestry is not None
        self.ancestry = self.ancestry.gather(1, parents.unsqueeze(2).expand(-1, -1, self.capacity))
        self.reorder_bytes += self.ancestry.numel()

    def keep(self, sentences: Tensor) -> None:
        """Drops all other sentences, in place. ``sentences``: ``(B')``, ascending."""
        assert self.ancestry is not None
        self.num_sentences = sentences.numel()
        self.ancestry = self.ancestry.index_select(0, sentences)
        self._replace_pools(lambda pool: keep_rows(pool, sentences))

    def release(self) -> Tuple[Tensor, Dict[str, List[Tensor]]]:
        """Gives away the ancestry and the pools of all layers; nothing is left here."""
        assert self.ancestry is not None
        ancestry, pools = self.ancestry, self._pools
        self.ancestry, self._pools = None, {}
        return ancestry, pools

    def living_nodes(self) -> Tensor:
        """Counts the nodes of each sentence that some beam descends from. *Shape:* ``(B)``."""
        assert self.ancestry is not None, "nothing was decoded yet"
        return self.ancestry.any(dim=1).sum(dim=1)

    def size_bytes(self) -> int:
        """Bytes of the nodes in use and of their ancestry."""
        pools = sum(t.numel() // max(t.size(2), 1) * t.element_size() for t in self._tensors())
        return (pools + self.num_sentences * self.beam_size) * self.num_nodes

    def capacity_bytes(self) -> int:
        """Bytes held allocated: pools and ancestry with the room left in them.

        Finished sentences leave their room to the others until the pools are full, which then get new storage.
        """
        return sum(map(storage_bytes, [*self._tensors(), *([] if self.ancestry is None else [self.ancestry])]))

    def _limited(self, capacity: int) -> int:
        if self.max_steps is None:
            return capacity
        return min(capacity, self.num_nodes + self.beam_size * max(self.max_steps - self.num_steps, 1))

    def _make_room(self) -> None:
        """Drops dead nodes, and gives the pools as much room as the living ones need.

        The host waits for the number of living nodes here: once in several steps, right after the search has asked
        which sentences are finished, when nothing but the reordering is left to wait for.
        """
        assert self.ancestry is not None
        self.num_nodes = int(self.living_nodes().max()) if self.num_nodes > 0 else 0
        self.capacity = self._limited(capacity_for(self.num_nodes, self.beam_size))
        living_first = torch.sort(self.ancestry.any(dim=1).to(torch.uint8), dim=1, descending=True, stable=True)[1]
        nodes = living_first[:, : self.num_nodes]  # (B, U)
        spare = (0, self.capacity - self.num_nodes)
        self.ancestry = F.pad(self.ancestry.gather(2, nodes.unsqueeze(1).expand(-1, self.beam_size, -1)), spare)
        nodes = F.pad(nodes, spare)  # node 0 again, as a filler that is finite
        self._replace_pools(lambda pool: select_nodes(pool, nodes))  # one after the other: only one is there twice

    def _replace_pools(self, moved: Callable[[Tensor], Tensor]) -> None:
        for pools in self._pools.values():
            for i in range(len(pools)):
                pools[i] = moved(pools[i])
                self.compaction_bytes += pools[i].numel() * pools[i].element_size()

    def _tensors(self) -> List[Tensor]:
        return [pool for pools in self._pools.values() for pool in pools]


def select_nodes(pool: Tensor, nodes: Tensor) -> Tensor:
    """Moves nodes: ``pool`` ``(B, g, U, w)`` and ``nodes`` ``(B, U')`` to ``(B, g, U', w)``."""
    num_sentences, num_groups, length, width = pool.shape
    first = torch.arange(num_sentences * num_groups, device=pool.device).mul_(length).view(num_sentences, num_groups, 1)
    rows = (first + nodes.unsqueeze(1)).view(-1)  # of the pool seen as (B*g*U, w)
    return pool.view(-1, width).index_select(0, rows).view(num_sentences, num_groups, -1, width)
