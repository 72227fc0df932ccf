"""The memory that fairseq's own generator takes.

Symbols are those of :mod:`fairseq_el.planning.memory`.
"""

from __future__ import annotations

from typing import Dict

from fairseq_el.planning.machine import holds_projections
from fairseq_el.planning.memory_terms import buffer_bytes, unfused_attention_bytes
from fairseq_el.planning.model_shape import ModelShape
from fairseq_el.planning.workload import Workload


def stock_memory(method: str, shape: ModelShape, load: Workload, worst: bool) -> Dict[str, int]:
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
    parts["buffers"] = buffer_bytes(shape, load, 2 * (8 + 4))  # words (int64) and scores (float32), both copied at once
    parts["decoder_state"] = shape.decoder_layers * layer_cache
    if not shape.decoder_only:
        cached_rows = load.batch if method == "stock-shared" else rows
        encoder_out = n * (2 * shape.encoder_dim * s + 1)  # output, embeddings, padding mask; per row
        keys = shape.decoder_layers * n * (2 * shape.decoder_dim * s + 4)  # and fairseq's float32 mask, per row
        record = 4 * rows * n * (load.tgt_len + 2)
        parts["encoding"] = _encoder_bytes(shape, load)
        parts["cross_state"] = cached_rows * (keys + encoder_out)
        parts["attention_record"] = record * (2 if worst else 1)
        at_peak.append(rows * shape.decoder_heads * n * load.attention_bytes + activations)
        at_peak.append(record)  # copied to follow the beams
        if method == "stock":
            at_peak.append(rows * encoder_out)  # copied to follow the beams
            expanding = (load.batch + rows) * encoder_out  # to beams
            parts["encoding"] = max(parts["encoding"], expanding)
    return {**parts, "step": kept_log_probs + max(at_peak)}


def _encoder_bytes(shape: ModelShape, load: Workload) -> int:
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
        in_attention += unfused_attention_bytes(load, shape.encoder_heads, shape.encoder_dim, 1, 1, load.src_len, 2 * s)
    if holds_projections():
        in_attention = max(in_attention, (alive + 5) * shape.encoder_dim * s)
    return positions * max(in_feed_forward, in_attention)
