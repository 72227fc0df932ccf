"""Beam search and sampling for EL models and every other fairseq model."""

from fairseq_el.generation.generator import ELSequenceGenerator, ELSequenceGeneratorWithAlignment, el_generator

__all__ = ["ELSequenceGenerator", "ELSequenceGeneratorWithAlignment", "el_generator"]
