"""The memory that native code takes: a mirror of what ``csrc/`` and ``fairseq_el.native`` allocate.

Sentences are decoded in groups, one for each thread. A group keeps the words of all its sentences in blocks, and takes
room for its intermediate results by itself. Symbols are those of :mod:`fairseq_el.planning.memory`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Dict

from fairseq_el.planning.el_memory import encoder_bytes, keeps_packed, multiplies_packed, packed_bytes
from fairseq_el.planning.model_shape import ModelShape
from fairseq_el.planning.workload import Workload
from fairseq_el.policy import LONGEST_NATIVE_SOURCE, groups_of_sentences, output_rows_at_once, sentences_at_once

_LEAST_BLOCK, _LARGEST_BLOCK = 16, 1024  # words in a block
_NODE_BYTES = 2 * 28  # noted about each word, in vectors that may be twice as large as they need to be
_CANDIDATE_BYTES = 2 * 24  # of a possible next word, in such a vector
_ROW_BYTES = 24  # noted about each word that is read
_QUANTIZING_BYTES = 4 + 1  # of a number of a weight while it is rounded to 8 bits: divided, and rounded


def native_memory(method: str, shape: ModelShape, load: Workload, worst: bool) -> Dict[str, int]:
    """Bytes by part, all but ``weights`` and ``overhead``, as :func:`el_memory` gives them for the steps in Python."""
    groups = groups_of_sentences(load.batch, load.beam, load.native_threads)
    group = replace(
        load, batch=-(-load.batch // groups), encoder_tokens=max(load.encoder_tokens // groups, 1), native_threads=1
    )
    d, s, n = shape.decoder_dim, load.element_size, load.src_len
    state = groups * _state_bytes(method, shape, group, worst)
    last_features = group.rows * d * s
    step = groups * max(last_features + _pass_bytes(method, shape, group, group.rows), _search_bytes(shape, group))
    tables = _table_bytes(shape, load)
    cross_state = keys_values = 0
    if shape.decoder_only:
        encoding = tables + groups * _prompt_bytes(method, shape, group)
    else:
        source = load.batch * n * shape.encoder_dim * s
        if load.backend == "shared-kv":
            keys_values = 2 * shape.decoder_layers * load.batch * n * d * s
            # Keys and values of a part, with its source, while there are no words yet.
            part = _positions_at_once(group)
            projecting = part * ((shape.encoder_dim + 2 * d) * s + _int8_row_bytes(load, shape.encoder_dim))
            step = max(step, groups * projecting - state)
        if encodes_natively(shape, load):
            cross_state = source if load.backend == "el" else 0
            read_before = (
                (cross_state + keys_values) * (group.batch * n - _positions_at_once(group)) // max(group.batch * n, 1)
            )
            encoding = tables + read_before + groups * _encoder_pass_bytes(shape, group)
        else:
            cross_state = source + load.batch * n  # with the mask
            encoding = encoder_bytes(shape, load)
    if load.int8:
        packed = _int8_bytes(method, shape, load)
        step = max(step, _QUANTIZING_BYTES * max(shape.vocab_size * d, d * shape.decoder_ffn_dim))
    else:
        packed = packed_bytes(method, shape, group) + _joined_bytes(method, shape, group)
    return {
        "packed": packed,
        "buffers": load.buffer_bytes(shape, 2 * (8 + 4)),  # in vectors that grow
        "attention_record": 0,
        "encoding": encoding,
        "cross_state": cross_state,
        "source_keys_values": keys_values,
        "decoder_state": state,
        "step": step + tables,
    }


def encodes_natively(shape: ModelShape, load: Workload) -> bool:
    """Returns whether native code runs the encoder, too, if it is one of fairseq's own."""
    return shape.encoder_layers > 0 and load.dtype == "fp32" and load.src_len <= LONGEST_NATIVE_SOURCE


def _positions_at_once(load: Workload) -> int:
    """Positions of the source, or of prompts, that are read together."""
    return min(load.batch, sentences_at_once(load.encoder_tokens, load.src_len)) * load.src_len


def _encoder_pass_bytes(shape: ModelShape, load: Workload) -> int:
    """Bytes of one pass of the encoder over a part of the batch, all in float32."""
    d, f = shape.encoder_dim, shape.encoder_ffn_dim
    activated = 2 if shape.gelu else 1
    throughout = 2 * 4 * d + 2 * _ROW_BYTES  # the residual and a layer's input
    in_attention = 4 * 4 * d  # queries, keys, values and contexts
    in_feed_forward = 4 * (d + max(activated * f, f + d)) + _int8_row_bytes(load, f)
    return _positions_at_once(load) * (throughout + max(in_attention, in_feed_forward))


def _state_bytes(method: str, shape: ModelShape, load: Workload, worst: bool) -> int:
    generated = load.batch * load.beam * load.tgt_len
    words = generated if worst else int(load.expected_node_share * generated)
    return _blocks_bytes(method, shape, load, words + load.batch * (load.src_len if shape.decoder_only else 1))


def _blocks_bytes(method: str, shape: ModelShape, load: Workload, num_words: int) -> int:
    """Bytes of blocks with room for so many words, and of every beam's list of its words."""
    block = min(max(load.rows, _LEAST_BLOCK), _LARGEST_BLOCK)
    room = -(-num_words // block) * block
    width = shape.decoder_dim * (2 if method == "kv" else 1)
    of_word = shape.decoder_layers * width * load.element_size + _NODE_BYTES
    return room * of_word + 4 * load.rows * load.hypothesis_length(shape)


def _pass_bytes(method: str, shape: ModelShape, load: Workload, num_rows: int) -> int:
    """Bytes of one pass of the decoder over so many words, whatever their sentences."""
    s, d, f, h = load.element_size, shape.decoder_dim, shape.decoder_ffn_dim, shape.decoder_heads
    throughout = _real_bytes(load) * d + d * s + _ROW_BYTES  # the residual, and a layer's input
    # Values of the contexts, and their sum with the bias; in float64 the bias is multiplied before.
    contracted = (3 if load.dtype == "fp64" else 2) * d * s
    # Queries, keys, values and contexts; or queries, and expanded queries and contexts.
    at_peak = [num_rows * (4 * d * s if method == "kv" else (1 + 2 * h) * d * s + contracted)]
    if not shape.decoder_only and load.backend == "el":
        # Of one sentence, and their softmax; float64 is copied to float32 and back between.
        scores = load.beam * h * load.src_len * s * (4 if load.dtype == "fp64" else 2)
        expanded = num_rows * (2 * d + 2 * h * shape.encoder_dim) * s
        at_peak.append(expanded + max(scores, num_rows * contracted))
    activated = 1
    if shape.gelu:
        fused = multiplies_packed(shape, load, d * f, num_rows)
        activated = 3 if load.dtype == "fp64" else 1 if fused else 2
    at_peak.append(num_rows * ((d + max(activated * f, f + d)) * s + _int8_row_bytes(load, f)))
    return num_rows * throughout + max(at_peak)


def _search_bytes(shape: ModelShape, load: Workload) -> int:
    """Bytes of features, and of logits and candidates of a part of the sentences."""
    at_once = output_rows_at_once(load.encoder_tokens, shape.decoder_dim, shape.vocab_size)
    part = min(max(at_once, load.beam), load.rows)  # whole sentences, some of which may have fewer beams left
    candidates = part * (2 * load.beam + 2) * _CANDIDATE_BYTES
    features = load.rows * shape.decoder_dim * load.element_size + part * _int8_row_bytes(load, shape.decoder_dim)
    return features + _logits_bytes(shape, load, part) + candidates


def _logits_bytes(shape: ModelShape, load: Workload, num_rows: int) -> int:
    """Bytes of logits, of their copies in float32, and of what settles the order of equal scores of a sentence."""
    per_word = {"fp64": 8 + 4 + 4, "fp32": 4}.get(load.dtype, load.element_size + 4)
    ties = 0 if load.element_size == 2 else 4 * load.beam
    return shape.vocab_size * (num_rows * per_word + ties)


def _prompt_bytes(method: str, shape: ModelShape, load: Workload) -> int:
    """Bytes while a language model reads prompts, part by part, and scores their words."""
    n, d, s = load.src_len, shape.decoder_dim, load.element_size
    part = _positions_at_once(load)
    scored = min(output_rows_at_once(load.encoder_tokens, d, shape.vocab_size), n)
    scoring = part * (d * s + _ROW_BYTES) + _logits_bytes(shape, load, scored)
    words = 8 * load.batch * n
    last_features = load.batch * d * s
    state = _blocks_bytes(method, shape, load, load.batch * n)
    return state + words + last_features + max(_pass_bytes(method, shape, load, part), scoring)


def _joined_bytes(method: str, shape: ModelShape, load: Workload) -> int:
    """Bytes of joined projections of self-attention as they are before packing; products of few rows read them."""
    joined = 3 * shape.decoder_dim * shape.decoder_dim
    if method == "el" or not keeps_packed(shape, load, joined):
        return 0
    return shape.decoder_layers * joined * load.element_size


def _int8_bytes(method: str, shape: ModelShape, load: Workload) -> int:
    """Bytes of weights in 8 bits, without those that EL-attention multiplies as they are.

    Each row of a weight has two numbers of 4 bytes beside it.
    """
    d, f, e = shape.decoder_dim, shape.decoder_ffn_dim, shape.encoder_dim
    squares = (2 if method == "el" else 4) + (0 if shape.decoder_only else 2)
    layer = squares * d * (d + 8) + f * (d + 8) + d * (f + 8)
    if not shape.decoder_only and load.backend == "shared-kv":
        layer += 2 * d * (e + 8)
    total = shape.decoder_layers * layer + shape.vocab_size * (d + 8)
    if not shape.decoder_only:
        f = shape.encoder_ffn_dim
        total += shape.encoder_layers * (4 * e * (e + 8) + f * (e + 8) + e * (f + 8))
    return total


def _int8_row_bytes(load: Workload, width: int) -> int:
    """Bytes of a row that is multiplied in 8 bits, with its scale."""
    return width + 4 if load.int8 else 0


def _table_bytes(shape: ModelShape, load: Workload) -> int:
    """Bytes of embeddings of positions, of norms in float32, and of embeddings of all words where they are computed."""
    d, real = shape.decoder_dim, _real_bytes(load)
    numbers = load.hypothesis_length(shape) * d * real
    if load.element_size == 2:
        numbers += (3 * shape.decoder_layers + 2) * 2 * d * real
    if encodes_natively(shape, load):
        numbers += load.src_len * shape.encoder_dim * 4
    if shape.computes_embeddings:
        numbers += shape.vocab_size * d * load.element_size
    return numbers


def _real_bytes(load: Workload) -> int:
    """Bytes of a number of the residual: sums are not rounded to 16 bits."""
    return max(load.element_size, 4)
