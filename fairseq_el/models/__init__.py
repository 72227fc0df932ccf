"""Registered architectures: fairseq's own, decoding with EL-attention under any task, and the SLiM Performer."""

from fairseq_el.models.el_bart import ELBARTModel
from fairseq_el.models.el_transformer import ELTransformerModel
from fairseq_el.models.el_transformer_lm import ELTransformerLanguageModel
from fairseq_el.models.slim_performer_lm import SlimPerformerLanguageModel

__all__ = ["ELBARTModel", "ELTransformerLanguageModel", "ELTransformerModel", "SlimPerformerLanguageModel"]
