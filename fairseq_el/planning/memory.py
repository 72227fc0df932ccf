"""Bytes at the peak of decoding, part by part. The formulas are explained in docs/plan.md.

Symbols: ``B`` sentences, ``b`` beams, ``n`` source length, ``t`` words to generate, ``L`` decoder layers, ``h`` heads,
``d`` width, ``f`` width of the feed-forward network, ``V`` words of the vocabulary, ``s`` bytes per element.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Dict

from fairseq_el.planning.capacity import capacity_for
from fairseq_el.planning.parts import output_rows_at_once, sentences_at_once
from fairseq_el.planning.shapes import ModelShape
from fairseq_el.planning.workload import METHODS, Workload, default_node_share

_MOST_SENTENCES = 1 << 24


@dataclass(frozen=True)
class Breakdown:
    """Bytes by part.

    Attributes:
        weights: of the model.
        overhead: of the process, outside tensors.
        buffers: source, words and scores of the hypotheses, with the copies that following the beams makes.
        encoding: what else is alive while the source (or a prompt) is read.
        cross_state: what cross-attention keeps.
        decoder_state: what decoder self-attention keeps.
        attention_record: the encoder-decoder attention that stock generators keep for every hypothesis.
        step: what else is alive at the peak of a step: logits and search, or activations, or copies of a cache.
    """

    weights: int
    overhead: int
    buffers: int
    encoding: int
    cross_state: int
    decoder_state: int
    attention_record: int
    step: int

    @property
    def decoding(self) -> int:
        """What is alive at the peak of a step beside weights, buffers and overhead."""
        return self.cross_state + self.decoder_state + self.attention_record + self.step

    @property
    def total(self) -> int:
        """Encoding and decoding follow each other, so only the larger counts."""
        return self.weights + self.overhead + self.buffers + max(self.encoding, self.decoding)

    def as_dict(self) -> Dict[str, int]:
        return {**asdict(self), "total": self.total}


def memory(method: str, shape: ModelShape, work: Workload, worst: bool = False) -> Breakdown:
    """Bytes at the peak.

    Args:
        method: a name in ``METHODS``.
        worst: beams share nothing, and in stock decoding all hypotheses end in the last step, where the attention of
            those that have ended is kept beside that of those under way; otherwise what is usual.

    Raises:
        ValueError: there is no such method.
    """
    if method not in METHODS:
        raise ValueError(f"method must be one of {list(METHODS)}; got {method!r}")
    parts = _el(method, shape, work, worst) if method in ("el", "kv") else _stock(method, shape, work, worst)
    return Breakdown(
        weights=shape.parameters * work.element_size, overhead=work.overhead, buffers=_buffers(shape, work), **parts
    )


def largest_batch(method: str, shape: ModelShape, work: Workload, limit: int, worst: bool = False) -> int:
    """The most sentences that fit into ``limit`` bytes; 0 if not even one does. ``work.batch`` is not looked at."""

    def fits(batch: int) -> bool:
        return memory(method, shape, replace(work, batch=batch), worst).total <= limit

    low, high = 0, 1
    while high < _MOST_SENTENCES and fits(high):
        low, high = high, 2 * high
    while high - low > 1:  # low fits, high does not
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def state_bytes(method: str, shape: ModelShape, work: Workload, capacity: int) -> int:
    """Bytes of a decode state with room for ``capacity`` nodes: pools of all layers, and who descends from which."""
    width = shape.decoder_dim * (2 if method == "kv" else 1)
    return work.batch * capacity * (shape.decoder_layers * width * work.element_size + work.beam)


def state_capacity(shape: ModelShape, work: Workload, worst: bool) -> int:
    """Nodes that a decode state has room for in the last step."""
    prompt = work.src_len if shape.decoder_only else 1
    share = default_node_share(work.beam) if work.node_share is None else work.node_share
    generated = work.beam * work.tgt_len
    nodes = prompt + (generated if worst else int(share * generated))
    steps = work.tgt_len + 1 + (work.src_len if shape.decoder_only else 0)
    return min(capacity_for(nodes, work.beam), prompt + work.beam * steps)


def _buffers(shape: ModelShape, work: Workload) -> int:
    """Source tokens; words (int64) and scores (float32) of the hypotheses, twice while they follow the beams."""
    length = work.tgt_len + 2 + (work.src_len if shape.decoder_only else 0)
    return 8 * work.batch * work.src_len + 2 * (8 + 4) * work.rows * length


def _encoder_activations(shape: ModelShape, work: Workload, sentences: int) -> int:
    """The peak of one encoder layer, in its feed-forward network or in its attention.

    Alive throughout are the embeddings, which fairseq returns, and the layer's input; in the feed-forward network the
    residual too, in attention queries, keys, values and the output; with pre-norm layers the normalised input.
    """
    positions, s = sentences * work.src_len, work.element_size
    alive = 2 + shape.pre_norm
    in_feed_forward = (alive + 1) * shape.encoder_dim * s + shape.encoder_ffn_dim * work.feed_forward(shape.gelu)
    in_attention = (alive + 4) * shape.encoder_dim * s
    if work.scores_kept:  # scores and their softmax
        in_attention += 2 * shape.encoder_heads * work.src_len * s
    return positions * max(in_feed_forward, in_attention)


def _step_activations(shape: ModelShape, work: Workload, kept: int) -> int:
    """Of one decoder layer in a step, its attention left out: some tensors of its own, and ``kept`` of others."""
    return (5 + kept) * work.rows * shape.decoder_dim * work.element_size


def _feed_forward(shape: ModelShape, work: Workload) -> int:
    return work.rows * shape.decoder_ffn_dim * work.feed_forward(shape.gelu)


def _stock(method: str, shape: ModelShape, work: Workload, worst: bool) -> Dict[str, int]:
    """fairseq's own generator: everything for all ``B b`` hypotheses at once."""
    s, rows, n = work.element_size, work.rows, work.src_len
    past = work.tgt_len + 1 + (n if shape.decoder_only else 0)
    layer_cache = 2 * rows * past * shape.decoder_dim * s
    logits = rows * shape.vocab_size
    kept_log_probs = 4 * logits  # of the step before: the generator's variable lives on
    activations = _step_activations(shape, work, kept=shape.decoder_layers)  # the inputs of all layers
    at_peak = [
        layer_cache + rows * shape.decoder_heads * past * work.attention + activations,  # torch.cat keeps both
        _feed_forward(shape, work) + activations,
        logits * max(work.softmax, 4),  # the search needs another 4 bytes: log-probabilities plus scores
    ]
    parts = {"encoding": 0, "cross_state": 0, "decoder_state": shape.decoder_layers * layer_cache}
    parts["attention_record"] = 0
    if not shape.decoder_only:
        cached_rows = work.batch if method == "stock-shared" else rows
        encoder_out = n * (2 * shape.encoder_dim * s + 1)  # output, embeddings, padding mask; per row
        keys = shape.decoder_layers * n * (2 * shape.decoder_dim * s + 4)  # and fairseq's float32 mask, per row
        record = 4 * rows * n * (work.tgt_len + 2)
        parts["encoding"] = _encoder_activations(shape, work, work.batch)
        parts["cross_state"] = cached_rows * (keys + encoder_out)
        parts["attention_record"] = record * (2 if worst else 1)
        at_peak.append(rows * shape.decoder_heads * n * work.attention + activations)
        at_peak.append(record)  # copied to follow the beams
        if method == "stock":
            at_peak.append(rows * encoder_out)  # copied to follow the beams
            expanding = (work.batch + rows) * encoder_out  # to beams
            parts["encoding"] = max(parts["encoding"], expanding)
    return {**parts, "step": kept_log_probs + max(at_peak)}


def _el(method: str, shape: ModelShape, work: Workload, worst: bool) -> Dict[str, int]:
    """EL-attention: one encoder output per sentence, one pool of nodes per sentence, large batches in parts."""
    capacity = state_capacity(shape, work, worst)
    memory_bytes = 0 if shape.decoder_only else work.batch * work.src_len * (shape.encoder_dim * work.element_size + 1)
    return {
        "encoding": _prompt(method, shape, work) if shape.decoder_only else _el_encoding(shape, work, memory_bytes),
        "cross_state": memory_bytes,
        "decoder_state": state_bytes(method, shape, work, capacity),
        "attention_record": 0,
        "step": _el_step(method, shape, work, capacity),
    }


def _part(work: Workload) -> int:
    """Sentences that the encoder, or a prompt's pass, has in flight."""
    return min(work.batch, sentences_at_once(work.encoder_tokens, work.src_len))


def _el_encoding(shape: ModelShape, work: Workload, memory_bytes: int) -> int:
    part = _part(work)
    activations = _encoder_activations(shape, work, part)
    if part == work.batch:
        return activations
    last = 2 * part * work.src_len * shape.encoder_dim * work.element_size  # what the part before returned lives on
    return memory_bytes + last + activations


def _el_step(method: str, shape: ModelShape, work: Workload, capacity: int) -> int:
    s, rows = work.element_size, work.rows
    activations = _step_activations(shape, work, kept=0) + rows * capacity  # and which nodes are hidden
    index_rows = shape.decoder_heads if method == "kv" else 1
    at_peak = [
        # Pools are moved one after the other, with int64 indices of the nodes that stay.
        work.batch * capacity * (shape.decoder_dim * s + 8 * (index_rows + 2)),
        _feed_forward(shape, work) + activations,
        _el_logits(shape, work, rows),
    ]
    if method == "kv":
        at_peak.append(rows * shape.decoder_heads * capacity * work.attention + activations)
    else:
        at_peak.append(_el_attention(shape, work, capacity, shape.decoder_dim) + activations)
    if not shape.decoder_only:
        at_peak.append(_el_attention(shape, work, work.src_len, shape.encoder_dim) + activations)
    return max(at_peak)


def _el_attention(shape: ModelShape, work: Workload, length: int, width: int) -> int:
    """Queries expanded to the memory's width for every head, scores and weights over its length, and contexts."""
    s = work.element_size
    expanded = work.rows * shape.decoder_heads * width * s
    weights = work.rows * shape.decoder_heads * length
    return max(2 * expanded, expanded + weights * work.softmax, 2 * expanded + weights * (s + 4 + work.cast))


def _el_logits(shape: ModelShape, work: Workload, num_rows: int, group: int = 0) -> int:
    """Logits and log-probabilities of a part of ``num_rows`` rows, in parts of whole groups (default: beams)."""
    group = group or work.beam
    part = max(output_rows_at_once(work.encoder_tokens, shape.decoder_dim, shape.vocab_size) // group, 1) * group
    if part >= num_rows:
        return num_rows * shape.vocab_size * max(work.softmax, 4 + 4)  # log-probabilities plus scores
    return part * shape.vocab_size * (4 + work.softmax)  # log-probabilities of the part before live on


def _prompt(method: str, shape: ModelShape, work: Workload) -> int:
    """The pass of a language model over its prompts, part by part, with causal attention, and the state it fills."""
    s, n, part = work.element_size, work.src_len, _part(work)
    positions = part * n
    alive = (1 + shape.pre_norm) * shape.decoder_dim * s
    in_attention = 4 * shape.decoder_dim * s + shape.decoder_heads * n * work.attention
    in_feed_forward = shape.decoder_dim * s + shape.decoder_ffn_dim * work.feed_forward(shape.gelu)
    logits = _el_logits(shape, work, positions, group=1)
    capacity = min(capacity_for(n, work.beam), n + work.beam * (work.tgt_len + 1 + n))
    passing = positions * (alive + max(in_attention, in_feed_forward))
    return state_bytes(method, shape, work, capacity) + max(passing, positions * alive + logits)
