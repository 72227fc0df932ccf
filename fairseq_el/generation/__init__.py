"""Beam search and sampling for EL models and every other fairseq model.

- :mod:`generator`: the generators that users call, with their settings; :mod:`hub` gives them to hub interfaces.
- :mod:`loop`: the search of one batch. Its values: :mod:`rules`, :mod:`active_batch`, :mod:`beams`,
  :mod:`length_limits`. When hypotheses end: :mod:`ended_hypotheses`.
- :mod:`step`: the interface of what computes a step; :mod:`step_choice` chooses. :mod:`reference_step` is built of
  :mod:`ensemble` (the models), :mod:`forced_prefix` (prompts), :mod:`word_rules` and :mod:`best_candidates`.
- :mod:`transformers_search`: words and ends of hypotheses by the rules of transformers' ``generate()``.
- :mod:`backend_choice`: what cross-attention keeps, where it is chosen for every batch.
- :mod:`batch` takes batches apart, and :mod:`failures` is for those that fail.
"""

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
