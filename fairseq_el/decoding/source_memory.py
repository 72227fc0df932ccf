"""The memory of the source: the encoder's output, and keys and values made of it once per sentence."""

from __future__ import annotations

from typing import Callable, Dict, List, Optional, Tuple

from torch import Tensor

from fairseq_el.decoding.encoder_output import EncoderOut
from fairseq_el.ops import keep_rows, storage_bytes


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
