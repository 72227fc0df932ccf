"""Operations in pure torch. Nothing here imports fairseq.

- EL-attention: :mod:`el_attention`, and :mod:`kv_attention` with the masked softmax of both.
- Beam search: :mod:`top_scores`, :mod:`ngram_block`, :mod:`packed_linear`, :mod:`int8_linear`.
- Top-k attention: :mod:`topk_attention`, :mod:`topk_feed_forward`, and :mod:`selected_rows`, which also keeps the rows
  of sentences that a search still decodes.
- SLiM Performers: :mod:`feature_maps`, :mod:`linear_attention`, :mod:`sliced_loss`.

Each file begins with its source and equation; ``tests/helpers/reference.py`` has the same operations as simply as can
be.
"""

from fairseq_el.ops.el_attention import contract_context, el_attention, expand_query, topk_el_attention
from fairseq_el.ops.feature_maps import FEATURE_MAPS, feature_map, orthogonal_directions
from fairseq_el.ops.int8_linear import Int8Linear, why_no_int8
from fairseq_el.ops.kv_attention import as_bias, fused_head_dim, kv_attention, masked_softmax
from fairseq_el.ops.linear_attention import (
    Sums,
    linear_attention,
    linear_attention_chunked,
    linear_attention_step,
    sums_of,
)
from fairseq_el.ops.ngram_block import block_in_place, block_repeated_ngrams
from fairseq_el.ops.packed_linear import PackedLinear, can_pack
from fairseq_el.ops.selected_rows import keep_rows, storage_bytes
from fairseq_el.ops.sliced_loss import Attend, attend_within, sliced_loss
from fairseq_el.ops.top_scores import keep_largest, largest, log_probabilities, top_of_rows
from fairseq_el.ops.topk_attention import MOST_QUERIES, topk_attention
from fairseq_el.ops.topk_feed_forward import topk_feed_forward

__all__ = [
    "FEATURE_MAPS",
    "MOST_QUERIES",
    "Attend",
    "Int8Linear",
    "PackedLinear",
    "Sums",
    "as_bias",
    "attend_within",
    "block_in_place",
    "block_repeated_ngrams",
    "can_pack",
    "contract_context",
    "el_attention",
    "expand_query",
    "feature_map",
    "fused_head_dim",
    "keep_largest",
    "keep_rows",
    "kv_attention",
    "largest",
    "linear_attention",
    "linear_attention_chunked",
    "linear_attention_step",
    "log_probabilities",
    "masked_softmax",
    "orthogonal_directions",
    "sliced_loss",
    "storage_bytes",
    "sums_of",
    "top_of_rows",
    "topk_attention",
    "topk_el_attention",
    "topk_feed_forward",
    "why_no_int8",
]
