"""Registered architectures: fairseq's own with EL-attention or with Top-k attention, and the SLiM Performer."""

from fairseq_el.models.el_bart import ELBARTModel
from fairseq_el.models.el_transformer import ELTransformerModel
from fairseq_el.models.el_transformer_lm import ELTransformerLanguageModel
from fairseq_el.models.slim_performer_lm import SlimPerformerLanguageModel
from fairseq_el.models.topk import TopkBARTModel, TopkTransformerLanguageModel, TopkTransformerModel

__all__ = [
    "ELBARTModel",
    "ELTransformerLanguageModel",
    "ELTransformerModel",
    "SlimPerformerLanguageModel",
    "TopkBARTModel",
    "TopkTransformerLanguageModel",
    "TopkTransformerModel",
]
