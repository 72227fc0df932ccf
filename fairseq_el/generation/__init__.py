"""Beam search and sampling for EL models and every other fairseq model.

- :mod:`generator`: the generators that users call, with their settings; :mod:`hub` gives them to hub interfaces.
- :mod:`loop`: the search of one batch, step by step (:mod:`batch_search`). It decides which hypotheses end.
- :mod:`rules`, :mod:`batch`, :mod:`hypotheses`: what the search works with, its settings, sentences and beams.
- :mod:`step`: the interface of what computes a step. :mod:`reference_step` is built of :mod:`ensemble` (the models),
  :mod:`forced_prefix` (prompts), :mod:`word_rules` and the best candidates of :mod:`hypotheses`.
- :mod:`alone`: sentences that are decoded together, each as if it were a batch of its own; :mod:`random_numbers`.
- :mod:`native_search`: all steps of a batch in native code, on a CPU.
- :mod:`static_search`: steps that stay in place on a card (:mod:`static_step`), replayed from CUDA graphs
  (:mod:`step_graph`), and hypotheses put together on the host (:mod:`static_history`). :mod:`choice` chooses.
- :mod:`ngram_extension`: fairseq's CUDA extension that forbids n-grams, where it is asked for.
- :mod:`transformers_search`: words and ends of hypotheses by the rules of transformers' ``generate()``.
- :mod:`backend_choice`: what cross-attention keeps, where it is chosen for every batch.
- :mod:`failures`: batches that do not fit into memory, and sentences without a hypothesis.
"""

from fairseq_el.decoding import DecodeState
from fairseq_el.generation.failures.out_of_memory import sentences_that_fit
from fairseq_el.generation.generator import (
    DEFAULT_ENCODER_TOKENS,
    ELSequenceGenerator,
    ELSequenceGeneratorWithAlignment,
    build_el_generator,
    el_generator,
)
from fairseq_el.generation.hub import disable_el_attention, enable_el_attention
from fairseq_el.generation.native_search import native_threads
from fairseq_el.generation.ngram_extension import forbids_the_right_words, has_ngram_extension, stock_blocker
from fairseq_el.generation.random_numbers import sentence_seed
from fairseq_el.generation.rules import TransformersRules
from fairseq_el.generation.static_search import uses_graphs

__all__ = [
    "DEFAULT_ENCODER_TOKENS",
    "DecodeState",
    "ELSequenceGenerator",
    "ELSequenceGeneratorWithAlignment",
    "TransformersRules",
    "build_el_generator",
    "disable_el_attention",
    "el_generator",
    "enable_el_attention",
    "forbids_the_right_words",
    "has_ngram_extension",
    "native_threads",
    "sentence_seed",
    "sentences_that_fit",
    "stock_blocker",
    "uses_graphs",
]
