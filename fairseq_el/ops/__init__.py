"""Attention operations in pure torch. Nothing here imports fairseq."""

from fairseq_el.ops.el_attention import contract_context, el_attention, expand_query
from fairseq_el.ops.kv_attention import kv_attention
from fairseq_el.ops.masked_softmax import masked_softmax
from fairseq_el.ops.ngram_block import block_repeated_ngrams
from fairseq_el.ops.packed_linear import PackedLinear, can_pack
from fairseq_el.ops.top_scores import log_normalizer, top_of_rows

__all__ = [
    "PackedLinear",
    "block_repeated_ngrams",
    "can_pack",
    "contract_context",
    "el_attention",
    "expand_query",
    "kv_attention",
    "log_normalizer",
    "masked_softmax",
    "top_of_rows",
]
