"""The state of a decoder between its passes, for one batch: the beams' past, the source, and the pass under way."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Callable, Dict, List, Optional, Tuple

import torch
from torch import Tensor

from fairseq_el.decoding.beam_tree import BeamTree
from fairseq_el.decoding.linears import Linears
from fairseq_el.ops import as_bias, keep_rows, storage_bytes

_KEY = "fairseq_el.decode_state"

EncoderOut = Dict[str, List[Tensor]]  # as fairseq's encoders return it


class SourceMemory:
    """The source of one batch, kept once for all beams of a sentence.

    Symbols: ``B`` sentences, ``h`` heads of width ``dh``, ``n`` positions of the source.

    Attributes:
        encoder_out: what the decoder's last pass was given; it belongs to the search, which drops finished sentences.
    """

    def __init__(self) -> None:
        self.encoder_out: Optional[EncoderOut] = None
        self._keys_values: Dict[str, List[Tensor]] = {}  # layer -> keys and values, (B, h, n, dh) each

    def keys_values(
        self,
        layer: str,
        project: Callable[[], Tuple[Tensor, Tensor]],
        num_sentences: int,
        part: slice,
        is_first: bool,
    ) -> Tuple[Tensor, Tensor]:
        """Keys and values of some sentences, projected when they are asked for the first time.

        Args:
            layer: any name, always the same for a layer.
            project: makes those of ``part``. *Shape:* ``(B', h, n, dh)`` each.
            num_sentences: ``B``.
            part: the sentences. Parts follow each other until all sentences have had their first pass.
            is_first: whether this pass may be the first of these sentences.
        """
        kept = self._keys_values.get(layer)
        if kept is not None and not is_first:
            return kept[0], kept[1]
        projected = project()
        if projected[0].size(0) == num_sentences:
            self._keys_values[layer] = list(projected)
            return projected
        if kept is None:  # filled part by part
            kept = [t.new_empty(num_sentences, *t.shape[1:]) for t in projected]
            self._keys_values[layer] = kept
        for tensor, of_part in zip(kept, projected):
            tensor[part] = of_part
        return projected

    def keep(self, sentences: Tensor) -> None:
        """Drops the keys and values of all other sentences, in place. ``sentences``: ``(B')``, ascending."""
        for tensors in self._keys_values.values():
            tensors[:] = [keep_rows(tensor, sentences) for tensor in tensors]

    def size_bytes(self) -> int:
        """Bytes of the encoder's output and mask, and of keys and values."""
        kept = [t for tensors in self._keys_values.values() for t in tensors]
        for tensors in (self.encoder_out or {}).values():
            kept.extend(tensors)
        return sum(map(storage_bytes, kept))


@dataclass(frozen=True)
class Pass:
    """One pass of the decoder: over the first words of some sentences, or over one word of every beam.

    Attributes:
        in_prompt: it reads first words, once for all beams of a sentence; queries are words. Else they are beams.
        part: the sentences of the pass.
        hidden: True where a node is hidden from a beam; None if all see all, and in prompts. Or the same as numbers
            that are added to scores. *Shape:* ``(B, b, U)``.
        prompt_length: words of the longest prompt.
        device: of the prompts.
    """

    in_prompt: bool
    part: slice
    hidden: Optional[Tensor]
    prompt_length: int = 0
    device: Optional[torch.device] = None
    _masks: List[Tuple[Tensor, Tensor]] = field(default_factory=list)  # hidden positions, and the mask made of them

    @cached_property
    def future(self) -> Optional[Tensor]:
        """True where a word of a prompt comes after the query; None if there is one word. *Shape:* ``(1, t, t)``.

        It is made when a layer asks for it: Top-k attention needs none. A position beyond the end of its prompt sees
        the prompt, and nobody sees it.
        """
        if self.prompt_length < 2:
            return None
        shape = (1, self.prompt_length, self.prompt_length)
        return torch.ones(shape, dtype=torch.bool, device=self.device).triu(1)

    def attn_mask(self, hidden: Optional[Tensor], dtype: torch.dtype) -> Optional[Tensor]:
        """``hidden`` as :func:`~fairseq_el.ops.kv_attention` takes it; made once in a pass, not in every layer.

        Args:
            hidden: True where a position is hidden; the same object in all layers. Numbers that are added to scores
                are returned as they are. *Shape:* ``(..., n)``.
            dtype: of the scores. Those of float64 are rounded by a softmax in float32, which must see what is hidden.
        """
        if hidden is None or dtype == torch.float64 or hidden.is_floating_point():
            return hidden
        for known, mask in self._masks:
            if known is hidden and mask.dtype == dtype:
                return mask
        self._masks.append((hidden, as_bias(hidden, dtype)))
        return self._masks[-1][1]


class DecodeState:
    """The state that the beams of a batch share while a decoder runs over them.

    A pass is :meth:`begin_prompt` or :meth:`begin_step` and then one :meth:`store` in every layer. After a step,
    :meth:`reorder` follows the beams.

    Attributes:
        tree: the nodes of all beams (:class:`BeamTree`).
        source: what is kept of the source (:class:`SourceMemory`).
        current: the pass under way, or the last one (:class:`Pass`).
        backend: what cross-attention keeps: ``"el"`` nothing, ``"shared-kv"`` keys and values, once per sentence.
        linears: how the decoder's linear layers are computed.
        layer_functions: how each decoder layer is computed, found out in the first pass.
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
            max_steps: most steps that there will be, if known; pools do not grow beyond what these can use.
        """
        self.tree = BeamTree(num_sentences, beam_size, max_steps)
        self.source = SourceMemory()
        self.current = Pass(in_prompt=False, part=slice(None), hidden=None)
        self.backend = backend
        self.linears = linears or Linears(num_sentences * beam_size)
        self.layer_functions: List[Callable[..., Tuple[Tensor, Optional[Tensor]]]] = []

    @staticmethod
    def of(incremental_state: Any) -> Optional[DecodeState]:
        """The state kept in one of fairseq's ``incremental_state`` dictionaries, if there is one."""
        return None if incremental_state is None else incremental_state.get(_KEY)

    def put_into(self, incremental_state: Any) -> DecodeState:
        incremental_state[_KEY] = self
        return self

    @property
    def num_sentences(self) -> int:
        return self.tree.num_sentences

    @property
    def beam_size(self) -> int:
        return self.tree.beam_size

    def begin_prompt(self, length: int, lengths: Optional[Tensor], device: torch.device, part: slice) -> None:
        """The coming pass reads the first words of some sentences, once for all their beams.

        Args:
            length: words of the longest prompt, its first symbol included.
            lengths: of each prompt of the batch, or None if all have ``length`` words. *Shape:* ``(B)``.
            part: the sentences of this pass. Parts follow each other until all sentences have had their prompt.
        """
        self.tree.begin_prompt(length, lengths, device)
        self.current = Pass(in_prompt=True, part=part, hidden=None, prompt_length=length, device=device)

    def begin_step(self, device: torch.device, in_search: Optional[Tensor] = None) -> None:
        """The coming pass reads one word of every beam.

        Args:
            in_search: False where a sentence is still within its prompt: whatever the pass computes for it is
                forgotten. *Shape:* ``(B)``.
        """
        hidden = self.tree.begin_step(device, in_search)
        self.current = Pass(in_prompt=False, part=slice(None), hidden=hidden)

    def store(self, layer: str, *nodes: Tensor) -> Tuple[Tensor, ...]:
        """Adds this pass's nodes ``(B', g, queries, w)`` to a layer's pools; see :meth:`BeamTree.store`."""
        return self.tree.store(layer, self.current.part, nodes)

    def source_keys_values(self, layer: str, project: Callable[[], Tuple[Tensor, Tensor]]) -> Tuple[Tensor, Tensor]:
        """Keys and values of the source for the sentences of this pass; see :meth:`SourceMemory.keys_values`."""
        current = self.current
        return self.source.keys_values(layer, project, self.num_sentences, current.part, current.in_prompt)

    def reorder(self, new_order: Tensor) -> None:
        """Follows the beams, and drops finished sentences.

        Args:
            new_order: for each row that stays, the row it continues, beams of a sentence side by side, sentences in
                their old order. *Shape:* ``(B' * b)`` with ``B' <= B``.

        Raises:
            ValueError: no step was run yet.
        """
        if self.tree.ancestry is None:
            raise ValueError("The decoder has no state to reorder yet: it has not run a step.")
        rows = new_order.view(-1, self.beam_size)  # (B'*b) -> (B', b)
        parents = rows % self.beam_size
        if rows.size(0) != self.num_sentences:
            sentences = torch.div(rows[:, 0], self.beam_size, rounding_mode="floor")
            self.tree.keep(sentences)
            self.source.keep(sentences)
        self.tree.reorder(parents)

    def size_bytes(self) -> int:
        """Bytes of the nodes in use and of their ancestry."""
        return self.tree.size_bytes()

    def capacity_bytes(self) -> int:
        """Bytes allocated for nodes and their ancestry, with the room left in them."""
        return self.tree.capacity_bytes()

    def source_bytes(self) -> int:
        """Bytes kept of the source: the encoder's output and mask, and with ``"shared-kv"`` keys and values."""
        return self.source.size_bytes()
