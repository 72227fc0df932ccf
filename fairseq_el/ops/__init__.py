"""Attention operations in pure torch. Nothing here imports fairseq."""

from fairseq_el.ops.el_attention import contract_context, el_attention, expand_query
from fairseq_el.ops.kv_attention import kv_attention
from fairseq_el.ops.masked_softmax import masked_softmax

__all__ = ["contract_context", "el_attention", "expand_query", "kv_attention", "masked_softmax"]
