"""The memory that steps in Python take: a mirror of what ``fairseq_el.decoding`` allocates.

It keeps one encoder output and one pool of nodes for each sentence, and cuts large batches into parts by the rules of
``fairseq_el.policy``. Symbols are those of :mod:`fairseq_el.planning.memory`.
"""

from __future__ import annotations

from typing import Dict, List

from fairseq_el.planning.model_shape import ModelShape
from fairseq_el.planning.workload import Workload
from fairseq_el.policy import (
    MANY_ROWS,
    PROJECTED_AT_ONCE,
    capacity_for,
    is_packed_faster,
    output_rows_at_once,
    sentences_at_once,
    should_pack,
    static_capacity,
    static_output_rows,
)

_MANY_USES = 10_000  # of a packed weight that stays from batch to batch


def el_memory(method: str, shape: ModelShape, load: Workload, worst: bool) -> Dict[str, int]:
    """Bytes by part, all but ``weights`` and ``overhead``.

    Args:
        method: ``"kv"`` or ``"el"``, what decoder self-attention keeps.
        worst: beams share nothing.
    """
    capacity = state_capacity(shape, load, worst)
    state = state_bytes(method, shape, load, capacity)
    computing = _computing_bytes(method, shape, load, capacity)
    step = max(_moving_bytes(method, shape, load, capacity), computing)
    parts = {
        "graphs": _tables_bytes(method, shape, load) + computing if load.graphs else 0,
        "packed": _int8_bytes(shape, load) if load.int8 else packed_bytes(method, shape, load),
        "buffers": load.buffer_bytes(shape, 8 + 4),
        "attention_record": 0,
    }
    if shape.decoder_only:
        return {
            **parts,
            "encoding": _prompt_bytes(method, shape, load),
            "cross_state": 0,
            "source_keys_values": 0,
            "decoder_state": state,
            "step": step,
        }
    keys_values = 0
    if load.backend == "shared-kv":
        keys_values = 2 * shape.decoder_layers * load.batch * load.src_len * shape.decoder_dim * load.element_size
        # They are there after the first symbol, when the decoder state is small.
        first = state_bytes(method, shape, load, min(capacity, capacity_for(1, load.beam)))
        step = max(step, _projection_bytes(shape, load) - (state - first))
    return {
        **parts,
        "encoding": encoder_bytes(shape, load),
        "cross_state": load.batch * load.src_len * (shape.encoder_dim * load.element_size + 1),
        "source_keys_values": keys_values,
        "decoder_state": state,
        "step": step,
    }


def state_bytes(method: str, shape: ModelShape, load: Workload, capacity: int) -> int:
    """Bytes of a decode state with room for ``capacity`` nodes: the pools of all layers, and each beam's ancestors."""
    width = shape.decoder_dim * (2 if method == "kv" else 1)
    mask = load.beam * (load.element_size if _adds_mask(method, load) else 1)
    return load.batch * capacity * (shape.decoder_layers * width * load.element_size + mask)


def state_capacity(shape: ModelShape, load: Workload, worst: bool) -> int:
    """Nodes that a decode state has room for in the last step."""
    prompt = load.src_len if shape.decoder_only else 1
    generated = load.beam * load.tgt_len
    nodes = prompt + (generated if worst else int(load.expected_node_share * generated))
    steps = load.tgt_len + 1 + (load.src_len if shape.decoder_only else 0)
    most = prompt + load.beam * steps
    if load.graphs:
        return static_capacity(nodes, load.beam, -(-(most - nodes) // load.beam))
    return min(capacity_for(nodes, load.beam), most)


def _adds_mask(method: str, load: Workload) -> bool:
    """Returns whether what a beam does not see is kept as numbers, which self-attention adds to scores."""
    return load.graphs and method == "kv" and load.dtype != "fp64"


def _tables_bytes(method: str, shape: ModelShape, load: Workload) -> int:
    """Bytes that steps in place only read: joined weights of query, key and value, positions, and rules for words."""
    d = shape.decoder_dim
    joined = shape.decoder_layers * 3 * (d + 1) * d * load.element_size if method == "kv" else 0
    return joined + load.hypothesis_length(shape) * d * load.element_size + 4 * 4 * shape.vocab_size


def keeps_packed(shape: ModelShape, load: Workload, size: int) -> bool:
    """Returns whether a decoder weight of ``size`` numbers is packed: for batches of this size or for smaller ones."""
    steps = load.tgt_len + 1 + (load.src_len if shape.decoder_only else 0)
    uses = _MANY_USES if load.keeps_packed else steps
    sizes = (load.beam, min(load.rows, MANY_ROWS - 1), load.rows)
    return load.can_pack and any(should_pack(load.dtype, rows, size, uses) for rows in sizes)


def multiplies_packed(shape: ModelShape, load: Workload, size: int, num_rows: int) -> bool:
    """Returns whether the decoder's products of ``num_rows`` rows use the packed weight."""
    return keeps_packed(shape, load, size) and is_packed_faster(load.dtype, num_rows, size)


def packed_bytes(method: str, shape: ModelShape, load: Workload) -> int:
    """Bytes of the packed weights of the decoder: all linear layers but cross-attention's keys and values."""
    d, f = shape.decoder_dim, shape.decoder_ffn_dim
    in_self_attention = [d * d, d * d] if method == "el" else [3 * d * d, d * d]  # el reads keys' and values' as is
    in_cross_attention = [] if shape.decoder_only else [d * d, d * d]
    layers = shape.decoder_layers * [*in_self_attention, *in_cross_attention, d * f, d * f]
    weights: List[int] = [*layers, shape.vocab_size * d]
    return load.element_size * sum(size for size in weights if keeps_packed(shape, load, size))


def _int8_bytes(shape: ModelShape, load: Workload) -> int:
    """Bytes of weights in 8 bits: all linear layers, but cross-attention's keys and values where these are not kept.

    Each row of a weight has two numbers of 4 bytes beside it.
    """
    d, f = shape.decoder_dim, shape.decoder_ffn_dim
    of_decoder = 4 * d * (d + 8) + f * (d + 8) + d * (f + 8)
    if not shape.decoder_only:
        of_decoder += 2 * d * (d + 8)
        if load.backend == "shared-kv":
            of_decoder += 2 * d * (shape.encoder_dim + 8)
    total = shape.decoder_layers * of_decoder + shape.vocab_size * (d + 8)
    if not shape.decoder_only:
        d, f = shape.encoder_dim, shape.encoder_ffn_dim
        total += shape.encoder_layers * (4 * d * (d + 8) + f * (d + 8) + d * (f + 8))
    return total


def _sentences_at_once(load: Workload) -> int:
    """Sentences that the encoder, or the pass over prompts, reads together."""
    return min(load.batch, sentences_at_once(load.encoder_tokens, load.src_len))


def encoder_bytes(shape: ModelShape, load: Workload) -> int:
    """Bytes while the encoder reads: all sentences between two layers, a layer's activations of a part, its weights."""
    s, d, f, pre = load.element_size, shape.encoder_dim, shape.encoder_ffn_dim, int(shape.pre_norm)
    part = _sentences_at_once(load)
    num_parts = -(-load.batch // max(part, 1))
    rows = load.batch * load.src_len // max(num_parts, 1)  # of a product
    joined, square, feed_forward = (
        size if load.can_pack and should_pack(load.dtype, rows, size, num_parts) else 0
        for size in (3 * d * d, d * d, d * f)
    )
    # Queries, keys, values, contexts and output, and what pre-norm layers read; the layer's input is a view.
    in_attention = (5 + pre) * d * s + load.kv_attention_bytes(shape.encoder_heads, d, 1, 1, load.src_len, 2 * s)
    in_feed_forward = _feed_forward_bytes(load, d, f, 2, shape, feed_forward > 0)
    weights = (joined + square + 2 * feed_forward) * s
    return load.batch * load.src_len * (d * s + 1) + weights + part * load.src_len * max(in_attention, in_feed_forward)


def _feed_forward_bytes(load: Workload, d: int, f: int, held: int, shape: ModelShape, packed: bool) -> int:
    """Bytes per position in a layer's feed-forward network, while ``held`` other tensors of width ``d`` are alive."""
    s, pre = load.element_size, int(shape.pre_norm)
    first = (held + pre) * d * s + f * load.el_feed_forward_bytes(shape.gelu, packed)
    second = (held + pre + 1) * d * s + f * s
    residual = (held + 3 - pre) * d * s
    return max(first, second, residual)


def _moving_bytes(method: str, shape: ModelShape, load: Workload, capacity: int) -> int:
    """Bytes while pools are moved, one after the other, beside the decode state; int64 indices say which nodes stay."""
    index_rows, width = (shape.decoder_heads if method == "kv" else 1), shape.decoder_dim * load.element_size
    if load.graphs and method == "kv":  # keys and values of a layer are one pool
        index_rows, width = 2 * index_rows, 2 * width
    return load.batch * capacity * (width + 8 * (index_rows + 2))


def _computing_bytes(method: str, shape: ModelShape, load: Workload, capacity: int) -> int:
    """Bytes at the peak of a step while it computes, beside the decode state."""
    s, rows, d = load.element_size, load.rows, shape.decoder_dim
    packed = multiplies_packed(shape, load, d * shape.decoder_ffn_dim, rows)
    activations = (4 + shape.pre_norm) * rows * d * s
    at_peak = [
        rows * _feed_forward_bytes(load, d, shape.decoder_ffn_dim, 3, shape, packed),
        _logits_bytes(shape, load),
        8 * rows * load.hypothesis_length(shape),  # words are copied to follow the beams
    ]
    if method == "kv":
        at_peak.append(_kv_attention_bytes(shape, load, capacity) + activations + 3 * rows * d * s)
    else:
        at_peak.append(_el_attention_bytes(shape, load, capacity, d) + activations)
    if not shape.decoder_only:
        n = load.src_len
        if load.backend == "shared-kv":
            at_peak.append(_kv_attention_bytes(shape, load, n) + activations)
            at_peak.append(load.batch * n * d * s // 8)  # keys or values of a layer, when sentences are finished
        else:
            at_peak.append(_el_attention_bytes(shape, load, n, shape.encoder_dim) + activations)
    masks = rows * capacity * (1 + (s if method == "kv" else 0))  # which nodes are hidden, and what hides them
    if load.graphs:
        masks = rows * capacity * (s if _adds_mask(method, load) else 1)  # a copy, to follow the beams
    if load.backend == "shared-kv" and not shape.decoder_only:
        masks += load.batch * load.src_len * s
    return masks + max(at_peak)


def _el_attention_bytes(shape: ModelShape, load: Workload, length: int, width: int) -> int:
    """Bytes of EL-attention: expanded queries and contexts, ``h`` of the memory's width each; scores and weights."""
    expanded = load.rows * shape.decoder_heads * width * load.element_size
    return 2 * expanded + load.rows * shape.decoder_heads * length * load.el_attention_bytes


def _kv_attention_bytes(shape: ModelShape, load: Workload, length: int) -> int:
    """Bytes of attention over the keys and values of all sentences, ``length`` of each."""
    num_keys = load.batch * length
    return load.kv_attention_bytes(
        shape.decoder_heads, shape.decoder_dim, load.rows, num_keys, length, load.attention_bytes
    )


def _projection_bytes(shape: ModelShape, load: Workload) -> int:
    """Bytes in flight while the source is projected: the keys, or the values, of one part and one layer."""
    position = shape.decoder_dim * load.element_size
    in_flight = min(load.batch, sentences_at_once(PROJECTED_AT_ONCE, load.src_len)) * load.src_len * position
    read_together = sentences_at_once(load.encoder_tokens, 1)
    if read_together < load.batch:  # first symbols are read in parts; one part's, before it is copied
        in_flight += read_together * load.src_len * 2 * position
    return in_flight


def _logits_bytes(shape: ModelShape, load: Workload) -> int:
    """Bytes of logits and log-probabilities of a part of the sentences; or of the latter with what search needs."""
    words = shape.vocab_size
    search = 2 * 4 * int((words * (2 * load.beam + 1)) ** 0.5)  # maxima of groups, and the members of the best
    rows = _output_rows(shape, load, load.beam, load.rows)
    if load.graphs:
        rows = min(static_output_rows(load.encoder_tokens, shape.decoder_dim, words), load.rows)
    return rows * max(words * load.el_softmax_bytes, words * 4 + search)


def _prompt_logits_bytes(shape: ModelShape, load: Workload, num_rows: int) -> int:
    """Bytes of logits and log-probabilities of a part of the ``num_rows`` words of prompts."""
    part = _output_rows(shape, load, 1, num_rows)
    last = 4 if part < num_rows else 0  # those of the part before are still alive
    return part * shape.vocab_size * (last + load.el_softmax_bytes)


def _output_rows(shape: ModelShape, load: Workload, group: int, num_rows: int) -> int:
    """Rows that the output projection computes together: whole groups."""
    at_once = output_rows_at_once(load.encoder_tokens, shape.decoder_dim, shape.vocab_size)
    return min(max(at_once // group, 1) * group, num_rows)


def _prompt_bytes(method: str, shape: ModelShape, load: Workload) -> int:
    """Bytes while a language model reads its prompts, part by part with causal attention, and fills its state."""
    s, d, n, part = load.element_size, shape.decoder_dim, load.src_len, _sentences_at_once(load)
    positions, pre = part * n, int(shape.pre_norm)
    in_attention = (5 + multiplies_packed(shape, load, 3 * d * d, positions) + pre) * d * s
    in_attention += load.kv_attention_bytes(shape.decoder_heads, d, 1, 1, n, load.attention_bytes)
    packed = multiplies_packed(shape, load, d * shape.decoder_ffn_dim, positions)
    in_feed_forward = _feed_forward_bytes(load, d, shape.decoder_ffn_dim, 3, shape, packed)
    capacity = min(capacity_for(n, load.beam), n + load.beam * (load.tgt_len + 1 + n))
    passing = positions * max(in_attention, in_feed_forward)
    scoring = positions * d * s + _prompt_logits_bytes(shape, load, positions)
    words = (8 + 4) * load.batch * n  # with their scores, beside those of the hypotheses
    return state_bytes(method, shape, load, capacity) + words + max(passing, scoring)
