"""The interface of what decodes one batch."""

from __future__ import annotations

from abc import ABC, abstractmethod

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
