"""Registered architectures: fairseq's own with EL-attention, and with Top-k attention."""

from fairseq_el.architectures.el_bart import ELBARTModel
from fairseq_el.architectures.el_transformer import ELTransformerModel
from fairseq_el.architectures.el_transformer_lm import ELTransformerLanguageModel
from fairseq_el.architectures.topk import TopkBARTModel, TopkTransformerLanguageModel, TopkTransformerModel

__all__ = [
    "ELBARTModel",
    "ELTransformerLanguageModel",
    "ELTransformerModel",
    "TopkBARTModel",
    "TopkTransformerLanguageModel",
    "TopkTransformerModel",
]
