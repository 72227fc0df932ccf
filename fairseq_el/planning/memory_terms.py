"""Terms of the memory formulas that stock fairseq and EL-attention share.

Symbols are those of :mod:`fairseq_el.planning.memory`.
"""

from __future__ import annotations

from fairseq_el.planning.model_shape import ModelShape
from fairseq_el.planning.workload import Workload


def hypothesis_length(shape: ModelShape, load: Workload) -> int:
    """Words of a hypothesis with the symbols before and after them, and with the prompt of a language model."""
    return load.tgt_len + 2 + (load.src_len if shape.decoder_only else 0)


def buffer_bytes(shape: ModelShape, load: Workload, per_word: int) -> int:
    """Bytes of the source's tokens and of all hypotheses, with ``per_word`` bytes for each of their words."""
    return 8 * load.batch * load.src_len + per_word * load.rows * hypothesis_length(shape, load)


def unfused_attention_bytes(
    load: Workload, heads: int, width: int, rows: int, num_keys: int, length: int, per_weight: int
) -> int:
    """Bytes that attention which is not fused holds beside queries, keys, values and contexts.

    It holds scaled queries, and scores with their softmax, or scaled keys before them. Where torch casts, it also holds
    float32 copies of all that it reads.

    Args:
        rows: of queries, each of which sees ``length`` of all ``num_keys`` keys.
        per_weight: bytes per attention weight where torch does not cast.
    """
    casts = load.torch_attention.casts and load.element_size == 2
    size = 4 if casts else load.element_size
    copies = 4 * width * (rows + 2 * num_keys) if casts else 0
    num_scores = rows * heads * length
    scores = max(num_scores * (8 if casts else per_weight), size * (num_scores + width * num_keys))
    return copies + size * width * rows + scores
