"""Attention operations in pure torch. Nothing here imports fairseq."""

from fairseq_el.ops.el_attention import contract_context, el_attention, expand_query

__all__ = ["contract_context", "el_attention", "expand_query"]
