"""Registered architectures: fairseq's own, decoding with EL-attention under any task, or with Top-k attention."""

from fairseq_el.models.el_bart import ELBARTModel
from fairseq_el.models.el_transformer import ELTransformerModel
from fairseq_el.models.el_transformer_lm import ELTransformerLanguageModel
from fairseq_el.models.topk import TopkBARTModel, TopkTransformerLanguageModel, TopkTransformerModel

__all__ = [
    "ELBARTModel",
    "ELTransformerLanguageModel",
    "ELTransformerModel",
    "TopkBARTModel",
    "TopkTransformerLanguageModel",
    "TopkTransformerModel",
]
