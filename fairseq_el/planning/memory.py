"""Bytes at the peak of decoding, part by part. The formulas are explained in docs/plan.md.

Symbols: ``B`` sentences, ``b`` beams, ``n`` source length, ``t`` words to generate, ``L`` decoder layers, ``h`` heads,
``d`` width, ``f`` width of the feed-forward network, ``V`` words of the vocabulary, ``s`` bytes per element.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Dict

from fairseq_el.planning.el_memory import el_memory
from fairseq_el.planning.machine import holds_projections
from fairseq_el.planning.model_shape import ModelShape
from fairseq_el.planning.native_memory import native_memory
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
        graphs: what CUDA graphs have for themselves, and weights that are joined for fewer launches.
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
    graphs: int = 0

    @property
    def decoding(self) -> int:
        """Bytes at the peak of a step, beside weights, buffers and overhead."""
        state = self.cross_state + self.source_keys_values + self.decoder_state
        return state + self.attention_record + self.step + self.graphs

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
    of_el = native_memory if load.native_threads else el_memory
    parts = (of_el if method in ("el", "kv") else _stock_memory)(method, shape, load, worst)
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


def _stock_memory(method: str, shape: ModelShape, load: Workload, worst: bool) -> Dict[str, int]:
    """Bytes by part, all but ``weights`` and ``overhead``, while fairseq computes all ``B b`` hypotheses at once.

    Args:
        method: ``"stock"``, whose cross-attention keeps keys and values for every beam, or ``"stock-shared"``, which
            keeps them for every sentence.
        worst: all hypotheses end in the last step.
    """
    s, rows, n = load.element_size, load.rows, load.src_len
    past = load.tgt_len + 1 + (n if shape.decoder_only else 0)
    layer_cache = 2 * rows * past * shape.decoder_dim * s
    logits = rows * shape.vocab_size
    kept_log_probs = 4 * logits  # of the step before: the generator's variable lives on
    activations = (5 + shape.decoder_layers) * rows * shape.decoder_dim * s  # of one layer, and the inputs of all
    at_peak = [
        layer_cache + rows * shape.decoder_heads * past * load.attention_bytes + activations,  # torch.cat keeps both
        rows * shape.decoder_ffn_dim * load.feed_forward_bytes(shape.gelu) + activations,
        logits * max(load.softmax_bytes, 4),  # the search needs another 4 bytes: log-probabilities plus scores
    ]
    parts = dict.fromkeys(("packed", "encoding", "cross_state", "source_keys_values", "attention_record"), 0)
    parts["buffers"] = load.buffer_bytes(shape, 2 * (8 + 4))  # words (int64) and scores (float32), both copied at once
    parts["decoder_state"] = shape.decoder_layers * layer_cache
    if not shape.decoder_only:
        cached_rows = load.batch if method == "stock-shared" else rows
        encoder_out = n * (2 * shape.encoder_dim * s + 1)  # output, embeddings, padding mask; per row
        keys = shape.decoder_layers * n * (2 * shape.decoder_dim * s + 4)  # and fairseq's float32 mask, per row
        record = 4 * rows * n * (load.tgt_len + 2)
        parts["encoding"] = _stock_encoder_bytes(shape, load)
        parts["cross_state"] = cached_rows * (keys + encoder_out)
        parts["attention_record"] = record * (2 if worst else 1)
        at_peak.append(rows * shape.decoder_heads * n * load.attention_bytes + activations)
        at_peak.append(record)  # copied to follow the beams
        if method == "stock":
            at_peak.append(rows * encoder_out)  # copied to follow the beams
            expanding = (load.batch + rows) * encoder_out  # to beams
            parts["encoding"] = max(parts["encoding"], expanding)
    return {**parts, "step": kept_log_probs + max(at_peak)}


def _stock_encoder_bytes(shape: ModelShape, load: Workload) -> int:
    """Bytes at the peak of an encoder layer, which is in its feed-forward network or in its attention.

    The embeddings, which fairseq returns, and the layer's input are alive throughout; in pre-norm layers, so is the
    normalised input. The feed-forward network also holds the residual. Attention also holds queries, keys, values and
    the output, and old torch holds them all while it projects the output.
    """
    positions, s = load.batch * load.src_len, load.element_size
    alive = 2 + shape.pre_norm
    in_feed_forward = (alive + 1) * shape.encoder_dim * s + shape.encoder_ffn_dim * load.feed_forward_bytes(shape.gelu)
    in_attention = (alive + 4) * shape.encoder_dim * s
    if not load.torch_attention.fuses(shape.encoder_head_width):
        in_attention += load.unfused_attention_bytes(shape.encoder_heads, shape.encoder_dim, 1, 1, load.src_len, 2 * s)
    if holds_projections():
        in_attention = max(in_attention, (alive + 5) * shape.encoder_dim * s)
    return positions * max(in_feed_forward, in_attention)
