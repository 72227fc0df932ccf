"""The interface of what decodes one batch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Optional

from fairseq.ngram_repeat_block import NGramRepeatBlock

from fairseq_el.generation.batch import ActiveBatch
from fairseq_el.generation.ensemble import EnsembleDecoder
from fairseq_el.generation.hypotheses import Hypotheses
from fairseq_el.generation.rules import SearchRules


class BatchSearch(ABC):
    """The search of one batch, from the source to its hypotheses.

    Attributes:
        rules: of the search.
        batch: the sentences still decoded.
        decoders: the models.
    """

    def __init__(self, rules: SearchRules, batch: ActiveBatch, decoders: EnsembleDecoder):
        """Nothing is computed yet."""
        self.rules = rules
        self.batch = batch
        self.decoders = decoders

    @abstractmethod
    def run(self) -> Hypotheses:
        """Decodes the batch; called once.

        Returns:
            the hypotheses of all sentences, best first, as fairseq's generators return them.

        Raises:
            NoWordLeftError: a sentence has no hypothesis that ends.
        """


def why_not_plain(rules: SearchRules, decoders: EnsembleDecoder) -> Optional[str]:
    """The reason, in half a sentence, why a batch is not plain beam search of one EL model; None if it is.

    Native code and steps in place decode only such batches.
    """
    if not rules.is_beam_search or rules.transformers is not None:
        return "the search is not fairseq's plain beam search"
    if len(decoders.models) != 1 or decoders.models[0].state is None or not decoders.models[0].is_softmax:
        return "the models are not one EL model with a plain softmax and a shared past"
    if rules.language_model is not None:
        return "a language model has a say (--lm-path)"
    if decoders.need_attn and decoders.has_encoder:
        return "attention is recorded"
    if decoders.on_step is not None:
        return "somebody watches every step"
    blocker = rules.ngram_blocker
    if blocker is not None and (type(blocker) is not NGramRepeatBlock or rules.blocks_ngrams_as_stock):
        return "repeated n-grams are left to fairseq's module"
    return None
