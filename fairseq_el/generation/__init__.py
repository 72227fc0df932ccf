"""Beam search and sampling for EL models and every other fairseq model."""

from fairseq_el.decoding import DecodeState
from fairseq_el.generation.failures.out_of_memory import is_out_of_memory
from fairseq_el.generation.generator import (
    DEFAULT_ENCODER_TOKENS,
    ELSequenceGenerator,
    ELSequenceGeneratorWithAlignment,
    el_generator,
)
from fairseq_el.generation.hub import disable_el_attention, enable_el_attention
from fairseq_el.generation.rules import TransformersRules

__all__ = [
    "DEFAULT_ENCODER_TOKENS",
    "DecodeState",
    "ELSequenceGenerator",
    "ELSequenceGeneratorWithAlignment",
    "TransformersRules",
    "disable_el_attention",
    "el_generator",
    "enable_el_attention",
    "is_out_of_memory",
]
