"""Bytes at the peak of decoding, part by part. The formulas are explained in docs/plan.md.

Symbols: ``B`` sentences, ``b`` beams, ``n`` source length, ``t`` words to generate, ``L`` decoder layers, ``h`` heads,
``d`` width, ``f`` width of the feed-forward network, ``V`` words of the vocabulary, ``s`` bytes per element.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Dict

from fairseq_el.planning.el_memory import el_memory
from fairseq_el.planning.model_shape import ModelShape
from fairseq_el.planning.stock_memory import stock_memory
from fairseq_el.planning.workload import METHODS, Workload

_MOST_SENTENCES = 1 << 24


@dataclass(frozen=True)
class Breakdown:
    """Bytes by part, at the peak of decoding.

    Attributes:
        weights: the model's.
        packed: copies of the decoder's weights, laid out for the processor.
        overhead: the process's, outside tensors.
        buffers: the source, and words and scores of the hypotheses. fairseq copies them to follow the beams.
        encoding: all else that is alive while the source (or a prompt) is read.
        cross_state: all that cross-attention keeps of the source; in EL models, the encoder's output.
        source_keys_values: keys and values that cross-attention of EL models keeps beside it (``--el-backend``).
        decoder_state: all that decoder self-attention keeps.
        attention_record: the encoder-decoder attention that fairseq's generator keeps for every hypothesis.
        step: all else that is alive at the peak of a step: logits and search, or activations, or copies of a cache.
    """

    weights: int
    packed: int
    overhead: int
    buffers: int
    encoding: int
    cross_state: int
    source_keys_values: int
    decoder_state: int
    attention_record: int
    step: int

    @property
    def decoding(self) -> int:
        """Bytes at the peak of a step, beside weights, buffers and overhead."""
        state = self.cross_state + self.source_keys_values + self.decoder_state
        return state + self.attention_record + self.step

    @property
    def total(self) -> int:
        """Bytes in all. Encoding and decoding follow each other, so only the larger counts."""
        return self.weights + self.packed + self.overhead + self.buffers + max(self.encoding, self.decoding)

    def as_dict(self) -> Dict[str, int]:
        """Every part by its name, and ``total``."""
        return {**asdict(self), "total": self.total}


def memory(method: str, shape: ModelShape, load: Workload, worst: bool = False) -> Breakdown:
    """Bytes at the peak of decoding a batch.

    Args:
        method: a name in ``METHODS``.
        worst: take the worst case instead of the usual one. There, beams share nothing, and with fairseq's generator
            all hypotheses end in the last step: it then keeps the attention of hypotheses that have ended beside that
            of those under way.

    Raises:
        ValueError: there is no such method.
    """
    if method not in METHODS:
        raise ValueError(f"method must be one of {list(METHODS)}; got {method!r}")
    bytes_by_part = el_memory if method in ("el", "kv") else stock_memory
    parts = bytes_by_part(method, shape, load, worst)
    return Breakdown(weights=shape.parameters * load.element_size, overhead=load.overhead, **parts)


def largest_batch(method: str, shape: ModelShape, load: Workload, limit: int, worst: bool = False) -> int:
    """The most sentences that fit into ``limit`` bytes; 0 if not even one does. ``load.batch`` is not used."""

    def fits(batch: int) -> bool:
        return memory(method, shape, replace(load, batch=batch), worst).total <= limit

    low, high = 0, 1
    while high < _MOST_SENTENCES and fits(high):
        low, high = high, 2 * high
    while high - low > 1:  # low fits, high does not
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low
