"""The past of all beams as one shared memory per sentence: pools of nodes, and who descends from which.

A *node* is one word at one place of one hypothesis. For every decoder layer there is a pool of nodes per sentence; what
a node is, is the layer's business (its input for EL-attention, a key and a value otherwise). One *ancestry* mask,
shared by all layers, says which nodes lie on the path of which beam:

- following the beams after a step of the search permutes rows of the mask. No cache is copied;
- a past that beams share is stored once, whatever their number; a prompt is just the first nodes;
- nodes that no living beam descends from are dropped when the pools are full, before they grow.

Symbols: ``B`` sentences, ``b`` beams, ``U`` nodes in use, ``g`` groups (heads, or 1) and ``w`` width of a pool.
"""

from __future__ import annotations

from typing import Any, Callable, Dict, List, Optional, Tuple

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from fairseq_el.decoding.linears import Linears
from fairseq_el.ops import as_bias, keep_rows, storage_bytes
from fairseq_el.policy import capacity_for

_KEY = "fairseq_el.decode_state"


class DecodeState:
    """What a decoder keeps between steps, for one batch.

    One pass of the decoder is :meth:`begin_prompt` or :meth:`begin_step` and then one :meth:`store` in every layer.

    Attributes:
        backend: what cross-attention keeps: ``"el"`` nothing, ``"shared-kv"`` keys and values, once per sentence.
        linears: how the decoder's linear layers are computed.
    """

    def __init__(
        self,
        num_sentences: int,
        beam_size: int,
        max_steps: Optional[int] = None,
        backend: str = "el",
        linears: Optional[Linears] = None,
    ):
        """
        Args:
            num_sentences: ``B``.
            beam_size: ``b``.
            max_steps: there will be no more steps than this, if known; pools do not grow beyond what they can use.
        """
        self.backend = backend
        self.linears = linears or Linears(num_sentences * beam_size)
        self.num_sentences = num_sentences
        self.beam_size = beam_size
        self.max_steps = max_steps
        self.prompt_length = 0  # words of the longest prompt, the first symbol included
        self.num_steps = 0  # begun so far, prompts not counted
        self.num_nodes = 0  # U
        self.capacity = 0
        self.ancestry: Optional[Tensor] = None  # (B, b, capacity), True where a node lies on a beam's path
        self.hidden: Optional[Tensor] = None  # what the queries of this pass do not see: (B, queries, U) or None
        self.in_prompt = False
        self.reorder_bytes = 0  # copied so far to follow the beams
        self.compaction_bytes = 0  # copied so far to drop dead nodes and finished sentences
        self._part = slice(None)
        self._masks: List[Tuple[Tensor, Tensor]] = []  # of this pass: what is hidden, and that as attn_mask
        self._pools: Dict[str, List[Tensor]] = {}  # layer -> tensors (B, g, capacity, w)
        self._source: Dict[str, List[Tensor]] = {}  # layer -> keys and values of the source (B, h, n, dh)
        self.encoder_out: Optional[Dict[str, List[Tensor]]] = None  # of the last pass
        self.layer_runs: List[Callable[..., Any]] = []  # how each layer is computed, found out in the first pass

    @staticmethod
    def of(incremental_state: Any) -> Optional[DecodeState]:
        """The state kept in one of fairseq's ``incremental_state`` dictionaries, if there is one."""
        return None if incremental_state is None else incremental_state.get(_KEY)

    def put_into(self, incremental_state: Any) -> DecodeState:
        incremental_state[_KEY] = self
        return self

    def size_bytes(self) -> int:
        """Bytes of the nodes in use and of their ancestry."""
        pools = sum(t.numel() // max(t.size(2), 1) * t.element_size() for t in self._tensors())
        return (pools + self.num_sentences * self.beam_size) * self.num_nodes

    def capacity_bytes(self) -> int:
        """Bytes that the state holds allocated: pools and ancestry with the room left in them.

        Finished sentences leave their room to the others until the pools are full, which then get new storage.
        """
        return sum(map(storage_bytes, [*self._tensors(), *([] if self.ancestry is None else [self.ancestry])]))

    def source_bytes(self) -> int:
        """Bytes kept of the source: the encoder's output and mask, and with ``"shared-kv"`` keys and values."""
        kept = [t for tensors in self._source.values() for t in tensors]
        for tensors in (self.encoder_out or {}).values():
            kept.extend(tensors)
        return sum(map(storage_bytes, kept))

    def living_nodes(self) -> Tensor:
        """How many nodes of each sentence some beam descends from. *Shape:* ``(B)``."""
        assert self.ancestry is not None, "nothing was decoded yet"
        return self.ancestry.any(dim=1).sum(dim=1)

    def begin_prompt(self, length: int, lengths: Optional[Tensor], device: torch.device, part: slice) -> None:
        """The coming pass reads the first words of some sentences, once for all their beams.

        Args:
            length: words of the longest prompt, its first symbol included.
            lengths: of each prompt of the batch, or None if all have ``length`` words. *Shape:* ``(B)``.
            part: the sentences of this pass. Parts follow each other until all sentences have had their prompt.
        """
        if self.ancestry is None:
            self.num_nodes = self.prompt_length = length
            self.capacity = self._limited(capacity_for(length, self.beam_size))
            nodes = torch.arange(self.capacity, device=device)
            ends = length if lengths is None else lengths.view(-1, 1, 1)
            self.ancestry = (nodes < ends).expand(self.num_sentences, self.beam_size, -1).contiguous()
        self.in_prompt = True
        self._part = part
        self._masks.clear()
        self.hidden = None
        if length > 1:  # causal; a position beyond the end of its prompt sees the prompt, and nobody sees it
            self.hidden = torch.ones(length, length, dtype=torch.bool, device=device).triu(1).unsqueeze(0)

    def begin_step(self, device: torch.device, in_search: Optional[Tensor] = None) -> None:
        """The coming pass reads one word of every beam.

        Args:
            in_search: False where a sentence is still within its prompt: whatever the pass computes for it is
                forgotten. *Shape:* ``(B)``.
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
        self.in_prompt = False
        self._part = slice(None)
        self._masks.clear()
        self.hidden = ~self.ancestry[:, :, : self.num_nodes]

    def attn_mask(self, hidden: Optional[Tensor], dtype: torch.dtype) -> Optional[Tensor]:
        """``hidden`` as :func:`kv_attention` takes it; made once in a pass, not in every layer.

        Args:
            hidden: True where a position is hidden; the same object in all layers. *Shape:* ``(..., n)``.
            dtype: of the scores. Those of float64 are rounded by a softmax in float32, which must see what is hidden.
        """
        if hidden is None or dtype == torch.float64:
            return hidden
        for known, mask in self._masks:
            if known is hidden and mask.dtype == dtype:
                return mask
        self._masks.append((hidden, as_bias(hidden, dtype)))
        return self._masks[-1][1]

    def store(self, layer: str, *nodes: Tensor) -> Tuple[Tensor, ...]:
        """Adds this pass's nodes to a layer's pools.

        Args:
            layer: any name, always the same for a layer.
            nodes: one tensor for each of the layer's pools. *Shape:* ``(B, g, queries, w)``.

        Returns:
            each pool with all nodes so far; views, not copies. *Shape:* ``(B, g, U, w)``.
        """
        pools = self._pools.get(layer)
        if pools is None:  # zeros, not empty: a hidden node weighs nothing, but nothing times NaN is NaN
            pools = [n.new_zeros(self.num_sentences, n.size(1), self.capacity, n.size(3)) for n in nodes]
            self._pools[layer] = pools
        stored = [pool[self._part, :, : self.num_nodes] for pool in pools]
        for pool, new in zip(stored, nodes):
            pool[:, :, self.num_nodes - new.size(2) :] = new
        return tuple(stored)

    def source_keys_values(self, layer: str, project: Callable[[], Tuple[Tensor, Tensor]]) -> Tuple[Tensor, Tensor]:
        """Keys and values of the source for the sentences of this pass, projected in their first.

        Args:
            layer: any name, always the same for a layer.
            project: gives those of this pass's sentences. *Shape:* ``(B', h, n, dh)`` each.
        """
        kept = self._source.get(layer)
        if self.in_prompt or kept is None:
            projected = project()
            if projected[0].size(0) == self.num_sentences:
                self._source[layer] = list(projected)
                return projected
            if kept is None:  # filled part by part
                kept = [t.new_empty(self.num_sentences, *t.shape[1:]) for t in projected]
                self._source[layer] = kept
            for tensor, part in zip(kept, projected):
                tensor[self._part] = part
            return projected
        return kept[0], kept[1]

    def reorder(self, new_order: Tensor) -> None:
        """Follows the beams, and drops finished sentences.

        Args:
            new_order: for each row that stays, the row it continues, beams of a sentence side by side, sentences in
                their old order. *Shape:* ``(B' * b)`` with ``B' <= B``.
        """
        if self.ancestry is None:
            raise ValueError("The decoder has no state to reorder yet: it has not run a step.")
        rows = new_order.view(-1, self.beam_size)
        parents = rows % self.beam_size
        if rows.size(0) != self.num_sentences:
            self._keep_sentences(torch.div(rows[:, 0], self.beam_size, rounding_mode="floor"))
        self.ancestry = self.ancestry.gather(1, parents.unsqueeze(2).expand(-1, -1, self.capacity))
        self.reorder_bytes += self.ancestry.numel()

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
        nodes = living_first[:, : self.num_nodes]
        spare = (0, self.capacity - self.num_nodes)
        self.ancestry = F.pad(self.ancestry.gather(2, nodes.unsqueeze(1).expand(-1, self.beam_size, -1)), spare)
        nodes = F.pad(nodes, spare)  # node 0 again, as a filler that is finite
        self._replace_pools(lambda pool: _select_nodes(pool, nodes))  # one after the other: only one is there twice

    def _keep_sentences(self, sentences: Tensor) -> None:
        """Drops all other sentences, in place. ``sentences``: ``(B')``, ascending."""
        assert self.ancestry is not None
        self.num_sentences = sentences.numel()
        self.ancestry = self.ancestry.index_select(0, sentences)
        self._replace_pools(lambda pool: keep_rows(pool, sentences))
        for tensors in self._source.values():
            tensors[:] = [keep_rows(tensor, sentences) for tensor in tensors]

    def _replace_pools(self, moved: Callable[[Tensor], Tensor]) -> None:
        for pools in self._pools.values():
            for i in range(len(pools)):
                pools[i] = moved(pools[i])
                self.compaction_bytes += pools[i].numel() * pools[i].element_size()

    def _tensors(self) -> List[Tensor]:
        return [pool for pools in self._pools.values() for pool in pools]


def _select_nodes(pool: Tensor, nodes: Tensor) -> Tensor:
    """``pool`` ``(B, g, U, w)`` and ``nodes`` ``(B, U')`` to ``(B, g, U', w)``."""
    num_sentences, num_groups, length, width = pool.shape
    first = torch.arange(num_sentences * num_groups, device=pool.device).mul_(length).view(num_sentences, num_groups, 1)
    rows = (first + nodes.unsqueeze(1)).view(-1)  # of the pool seen as (B*g*U, w)
    return pool.view(-1, width).index_select(0, rows).view(num_sentences, num_groups, -1, width)
