"""Registered architectures: fairseq's own, decoding with EL-attention under any task."""

from fairseq_el.models.el_bart import ELBARTModel
from fairseq_el.models.el_transformer import ELTransformerModel
from fairseq_el.models.el_transformer_lm import ELTransformerLanguageModel

__all__ = ["ELBARTModel", "ELTransformerLanguageModel", "ELTransformerModel"]
