"""Bytes at the peak of decoding, part by part. The formulas are explained in docs/plan.md.

Symbols: ``B`` sentences, ``b`` beams, ``n`` source length, ``t`` words to generate, ``L`` decoder layers, ``h`` heads,
``d`` width, ``f`` width of the feed-forward network, ``V`` words of the vocabulary, ``s`` bytes per element.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Dict, List

from fairseq_el.planning.machine import holds_projections
from fairseq_el.planning.model_shape import ModelShape
from fairseq_el.planning.workload import METHODS, Workload
from fairseq_el.policy import (
    MANY_ROWS,
    PROJECTED_AT_ONCE,
    capacity_for,
    is_packed_faster,
    output_rows_at_once,
    sentences_at_once,
    should_pack,
)

_MOST_SENTENCES = 1 << 24
_MANY = 10_000  # uses of a weight that stays from batch to batch


@dataclass(frozen=True)
class Breakdown:
    """Bytes by part.

    Attributes:
        weights: of the model.
        packed: their copies laid out for the processor, in decoding.
        overhead: of the process, outside tensors.
        buffers: source, words and scores of the hypotheses; in stock, with the copies that following the beams makes.
        encoding: what else is alive while the source (or a prompt) is read.
        cross_state: what cross-attention keeps of the source; in EL models, the encoder's output.
        source_keys_values: what cross-attention of EL models keeps beside it, if it does.
        decoder_state: what decoder self-attention keeps.
        attention_record: the encoder-decoder attention that stock generators keep for every hypothesis.
        step: what else is alive at the peak of a step: logits and search, or activations, or copies of a cache.
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
        """What is alive at the peak of a step beside weights, buffers and overhead."""
        state = self.cross_state + self.source_keys_values + self.decoder_state
        return state + self.attention_record + self.step

    @property
    def total(self) -> int:
        """Encoding and decoding follow each other, so only the larger counts."""
        return self.weights + self.packed + self.overhead + self.buffers + max(self.encoding, self.decoding)

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
    return Breakdown(weights=shape.parameters * work.element_size, overhead=work.overhead, **parts)


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
    generated = work.beam * work.tgt_len
    nodes = prompt + (generated if worst else int(work.expected_node_share * generated))
    steps = work.tgt_len + 1 + (work.src_len if shape.decoder_only else 0)
    return min(capacity_for(nodes, work.beam), prompt + work.beam * steps)


def _buffers(shape: ModelShape, work: Workload, size: int) -> int:
    """Source tokens, and ``size`` bytes per word of every hypothesis."""
    return 8 * work.batch * work.src_len + size * work.rows * _length(shape, work)


def _length(shape: ModelShape, work: Workload) -> int:
    """Words of a hypothesis, the symbols before and after them and a prompt included."""
    return work.tgt_len + 2 + (work.src_len if shape.decoder_only else 0)


def _encoder_activations(shape: ModelShape, work: Workload) -> int:
    """The peak of one of stock's encoder layers, in its feed-forward network or in its attention.

    Alive throughout are the embeddings, which fairseq returns, and the layer's input; in the feed-forward network the
    residual too, in attention queries, keys, values and the output, which old torch projects while it holds them; with
    pre-norm layers the normalised input.
    """
    positions, s = work.batch * work.src_len, work.element_size
    alive = 2 + shape.pre_norm
    in_feed_forward = (alive + 1) * shape.encoder_dim * s + shape.encoder_ffn_dim * work.feed_forward(shape.gelu)
    in_attention = (alive + 4) * shape.encoder_dim * s
    if not work.torch_attention.fuses(shape.encoder_head_width):
        in_attention += _unfused(work, shape.encoder_heads, shape.encoder_dim, 1, 1, work.src_len, 2 * s)
    if holds_projections():
        in_attention = max(in_attention, (alive + 5) * shape.encoder_dim * s)
    return positions * max(in_feed_forward, in_attention)


def _unfused(work: Workload, heads: int, width: int, rows: int, num_keys: int, length: int, weight: int) -> int:
    """What attention that is not fused holds beside queries, keys, values and contexts.

    Scaled queries, scores and their softmax or, before, scaled keys; where it casts, copies of all it reads in float32.

    Args:
        rows: of queries, each of which sees ``length`` of all ``num_keys`` keys.
        weight: bytes per attention weight, where it does not cast.
    """
    casts = work.torch_attention.casts and work.element_size == 2
    size = 4 if casts else work.element_size
    copies = 4 * width * (rows + 2 * num_keys) if casts else 0
    num_scores = rows * heads * length
    return (
        copies
        + size * width * rows
        + max(num_scores * (8 if casts else weight), size * (num_scores + width * num_keys))
    )


def _stock(method: str, shape: ModelShape, work: Workload, worst: bool) -> Dict[str, int]:
    """fairseq's own generator: everything for all ``B b`` hypotheses at once."""
    s, rows, n = work.element_size, work.rows, work.src_len
    past = work.tgt_len + 1 + (n if shape.decoder_only else 0)
    layer_cache = 2 * rows * past * shape.decoder_dim * s
    logits = rows * shape.vocab_size
    kept_log_probs = 4 * logits  # of the step before: the generator's variable lives on
    activations = (5 + shape.decoder_layers) * rows * shape.decoder_dim * s  # of one layer, and the inputs of all
    at_peak = [
        layer_cache + rows * shape.decoder_heads * past * work.attention + activations,  # torch.cat keeps both
        rows * shape.decoder_ffn_dim * work.feed_forward(shape.gelu) + activations,
        logits * max(work.softmax, 4),  # the search needs another 4 bytes: log-probabilities plus scores
    ]
    parts = dict.fromkeys(("packed", "encoding", "cross_state", "source_keys_values", "attention_record"), 0)
    parts["buffers"] = _buffers(shape, work, 2 * (8 + 4))  # words (int64) and scores (float32), both copied at once
    parts["decoder_state"] = shape.decoder_layers * layer_cache
    if not shape.decoder_only:
        cached_rows = work.batch if method == "stock-shared" else rows
        encoder_out = n * (2 * shape.encoder_dim * s + 1)  # output, embeddings, padding mask; per row
        keys = shape.decoder_layers * n * (2 * shape.decoder_dim * s + 4)  # and fairseq's float32 mask, per row
        record = 4 * rows * n * (work.tgt_len + 2)
        parts["encoding"] = _encoder_activations(shape, work)
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
    state = state_bytes(method, shape, work, capacity)
    step = _el_step(method, shape, work, capacity)
    parts = {
        "packed": _packed_decoder(method, shape, work),
        "buffers": _buffers(shape, work, 8 + 4),
        "attention_record": 0,
    }
    if shape.decoder_only:
        return {
            **parts,
            "encoding": _prompt(method, shape, work),
            "cross_state": 0,
            "source_keys_values": 0,
            "decoder_state": state,
            "step": step,
        }
    keys_values = 0
    if work.backend == "shared-kv":
        keys_values = 2 * shape.decoder_layers * work.batch * work.src_len * shape.decoder_dim * work.element_size
        # They are there after the first symbol, when the decoder state is small.
        first = state_bytes(method, shape, work, min(capacity, capacity_for(1, work.beam)))
        step = max(step, _projection(shape, work) - (state - first))
    return {
        **parts,
        "encoding": _el_encoding(shape, work),
        "cross_state": work.batch * work.src_len * (shape.encoder_dim * work.element_size + 1),
        "source_keys_values": keys_values,
        "decoder_state": state,
        "step": step,
    }


def _keeps_packed(shape: ModelShape, work: Workload, size: int) -> bool:
    """Whether a decoder weight is packed in batches of this size, or in the smaller ones that there are too.

    Args:
        size: numbers of the weight.
    """
    steps = work.tgt_len + 1 + (work.src_len if shape.decoder_only else 0)
    uses = _MANY if work.keeps_packed else steps
    sizes = (work.beam, min(work.rows, MANY_ROWS - 1), work.rows)
    return work.can_pack and any(should_pack(work.dtype, rows, size, uses) for rows in sizes)


def _multiplies_packed(shape: ModelShape, work: Workload, size: int, num_rows: int) -> bool:
    """Whether products of ``num_rows`` rows in the decoder are with the packed weight."""
    return _keeps_packed(shape, work, size) and is_packed_faster(work.dtype, num_rows, size)


def _packed_decoder(method: str, shape: ModelShape, work: Workload) -> int:
    """Linear layers of the decoder and the output projection; not keys and values of cross-attention."""
    d, f = shape.decoder_dim, shape.decoder_ffn_dim
    in_self_attention = [d * d, d * d] if method == "el" else [3 * d * d, d * d]  # el reads keys' and values' as is
    in_cross_attention = [] if shape.decoder_only else [d * d, d * d]
    layers = shape.decoder_layers * [*in_self_attention, *in_cross_attention, d * f, d * f]
    weights: List[int] = [*layers, shape.vocab_size * d]
    return work.element_size * sum(size for size in weights if _keeps_packed(shape, work, size))


def _part(work: Workload) -> int:
    """Sentences that the encoder, or a prompt's pass, has in flight."""
    return min(work.batch, sentences_at_once(work.encoder_tokens, work.src_len))


def _el_encoding(shape: ModelShape, work: Workload) -> int:
    """All sentences between two layers, one layer's activations of a part, and its packed weights."""
    s, d, f, pre = work.element_size, shape.encoder_dim, shape.encoder_ffn_dim, int(shape.pre_norm)
    part = _part(work)
    num_parts = -(-work.batch // max(part, 1))
    rows = work.batch * work.src_len // max(num_parts, 1)  # of a product
    joined, square, feed_forward = (
        size if work.can_pack and should_pack(work.dtype, rows, size, num_parts) else 0
        for size in (3 * d * d, d * d, d * f)
    )
    # Queries, keys, values, contexts and output, and what pre-norm layers read; the layer's input is a view.
    in_attention = (5 + pre) * d * s
    if not work.fuses(shape.encoder_head_width):
        in_attention += _unfused(work, shape.encoder_heads, d, 1, 1, work.src_len, 2 * s)
    in_feed_forward = _el_feed_forward(work, d, f, 2, shape, feed_forward > 0)
    weights = (joined + square + 2 * feed_forward) * s
    return work.batch * work.src_len * (d * s + 1) + weights + part * work.src_len * max(in_attention, in_feed_forward)


def _el_feed_forward(work: Workload, d: int, f: int, held: int, shape: ModelShape, packed: bool) -> int:
    """Bytes per position in the feed-forward network of a layer that holds ``held`` tensors ``d`` wide meanwhile."""
    s, pre = work.element_size, int(shape.pre_norm)
    first = (held + pre) * d * s + f * work.el_feed_forward(shape.gelu, packed)
    second = (held + pre + 1) * d * s + f * s
    residual = (held + 3 - pre) * d * s
    return max(first, second, residual)


def _el_step(method: str, shape: ModelShape, work: Workload, capacity: int) -> int:
    s, rows, d = work.element_size, work.rows, shape.decoder_dim
    packed = _multiplies_packed(shape, work, d * shape.decoder_ffn_dim, rows)
    activations = (4 + shape.pre_norm) * rows * d * s
    index_rows = shape.decoder_heads if method == "kv" else 1
    # Pools are moved one after the other, with int64 indices of the nodes that stay.
    moving = work.batch * capacity * (d * s + 8 * (index_rows + 2))
    at_peak = [
        rows * _el_feed_forward(work, d, shape.decoder_ffn_dim, 3, shape, packed),
        _el_logits(shape, work),
        8 * rows * _length(shape, work),  # words are copied to follow the beams
    ]
    if method == "kv":
        at_peak.append(_kv_attention(shape, work, capacity) + activations + 3 * rows * d * s)
    else:
        at_peak.append(_el_attention(shape, work, capacity, d) + activations)
    if not shape.decoder_only:
        n = work.src_len
        if work.backend == "shared-kv":
            at_peak.append(_kv_attention(shape, work, n) + activations)
            at_peak.append(work.batch * n * d * s // 8)  # keys or values of a layer, when sentences are finished
        else:
            at_peak.append(_el_attention(shape, work, n, shape.encoder_dim) + activations)
    masks = rows * capacity * (1 + (s if method == "kv" else 0))  # which nodes are hidden, and what hides them
    if work.backend == "shared-kv" and not shape.decoder_only:
        masks += work.batch * work.src_len * s
    return max(moving, masks + max(at_peak))


def _el_attention(shape: ModelShape, work: Workload, length: int, width: int) -> int:
    """Queries expanded to the memory's width for every head, scores and weights over its length, and contexts."""
    expanded = work.rows * shape.decoder_heads * width * work.element_size
    return 2 * expanded + work.rows * shape.decoder_heads * length * work.el_attention


def _kv_attention(shape: ModelShape, work: Workload, length: int) -> int:
    """Scores and weights, if they are kept, and what comes with that."""
    if work.fuses(shape.decoder_head_width):
        return 0
    num_keys = work.batch * length
    return _unfused(work, shape.decoder_heads, shape.decoder_dim, work.rows, num_keys, length, work.attention)


def _projection(shape: ModelShape, work: Workload) -> int:
    """What projecting the source to keys and values has in flight: two parts of one layer's."""
    position = 2 * shape.decoder_dim * work.element_size
    in_flight = min(work.batch, sentences_at_once(PROJECTED_AT_ONCE, work.src_len)) * work.src_len * position
    read_together = sentences_at_once(work.encoder_tokens, 1)
    if read_together < work.batch:  # first symbols are read in parts: one part's, before they are copied to their place
        in_flight += read_together * work.src_len * position
    return in_flight


def _el_logits(shape: ModelShape, work: Workload) -> int:
    """Logits and log-probabilities, for a part of the rows: whole sentences; then these and what their search needs."""
    words = shape.vocab_size
    search = 2 * 4 * int((words * (2 * work.beam + 1)) ** 0.5)  # maxima of groups, and the members of the best
    return _output_rows(shape, work, work.beam, work.rows) * max(words * work.el_softmax, words * 4 + search)


def _log_probs(shape: ModelShape, work: Workload, num_rows: int) -> int:
    """Logits and log-probabilities of a part of ``num_rows`` words of prompts."""
    part = _output_rows(shape, work, 1, num_rows)
    last = 4 if part < num_rows else 0  # log-probabilities of the part before live on
    return part * shape.vocab_size * (last + work.el_softmax)


def _output_rows(shape: ModelShape, work: Workload, group: int, num_rows: int) -> int:
    """Rows of the output projection in flight, in whole groups."""
    at_once = output_rows_at_once(work.encoder_tokens, shape.decoder_dim, shape.vocab_size)
    return min(max(at_once // group, 1) * group, num_rows)


def _prompt(method: str, shape: ModelShape, work: Workload) -> int:
    """The pass of a language model over its prompts, part by part, with causal attention, and the state it fills."""
    s, d, n, part = work.element_size, shape.decoder_dim, work.src_len, _part(work)
    positions, pre = part * n, int(shape.pre_norm)
    in_attention = (5 + _multiplies_packed(shape, work, 3 * d * d, positions) + pre) * d * s
    if not work.fuses(shape.decoder_head_width):
        in_attention += _unfused(work, shape.decoder_heads, d, 1, 1, n, work.attention)
    packed = _multiplies_packed(shape, work, d * shape.decoder_ffn_dim, positions)
    in_feed_forward = _el_feed_forward(work, d, shape.decoder_ffn_dim, 3, shape, packed)
    capacity = min(capacity_for(n, work.beam), n + work.beam * (work.tgt_len + 1 + n))
    passing = positions * max(in_attention, in_feed_forward)
    scoring = positions * d * s + _log_probs(shape, work, positions)
    words = (8 + 4) * work.batch * n  # with their scores, beside those of the hypotheses
    return state_bytes(method, shape, work, capacity) + words + max(passing, scoring)
