"""The search of one batch, from the source to its hypotheses."""

from __future__ import annotations

from typing import Optional, Union

import torch

from fairseq_el.generation.active_batch import ActiveBatch
from fairseq_el.generation.beams import Kept
from fairseq_el.generation.ended_hypotheses import EndedHypotheses, Hypotheses, NoWordLeftError
from fairseq_el.generation.rules import SearchRules
from fairseq_el.generation.step import BeamStep
from fairseq_el.generation.transformers_search import RankedHypotheses


class SearchLoop:
    """The search loop of fairseq's ``SequenceGenerator._generate``, for any of fairseq's search strategies.

    Symbols: ``B`` sentences still decoded, ``b`` beams, ``c`` candidates of a sentence.

    Attributes:
        rules: of the search.
        batch: the sentences still decoded.
        step: computes the candidates of each step.
        ended: the hypotheses that have ended, and when a sentence is finished with them.
    """

    def __init__(self, rules: SearchRules, batch: ActiveBatch, step: BeamStep):
        self.rules = rules
        self.batch = batch
        self.step = step
        self.ended: Union[EndedHypotheses, RankedHypotheses]
        self.ended = (EndedHypotheses if rules.transformers is None else RankedHypotheses)(rules, batch)

    def run(self) -> Hypotheses:
        """Decodes the batch.

        Raises:
            NoWordLeftError: a sentence has no hypothesis that ends.
        """
        batch = self.batch
        # 1. Read the source, and the prompts.
        first_step = self.step.begin()
        # 2. All steps in one call, where the implementation has one.
        hypotheses = self.step.run_to_end(first_step)
        if hypotheses is not None:
            return hypotheses
        for step in range(first_step, batch.max_len + 1):  # one more than max_len, for eos
            # 3. The best continuations of every sentence.  (B, c)
            candidates = self.step.candidates(step)
            # 4. Hypotheses end, and sentences are finished.  (B, c)
            ended = self.ended.end(step, candidates, self.step.beams)
            remaining = batch.remaining()
            if not remaining or (self.rules.strategy.stop_on_max_len and step >= batch.max_len):
                break
            if step >= batch.max_len:
                raise NoWordLeftError([batch.sentences[i] for i in remaining])
            # 5. Finished sentences leave, a few at a time.  B -> B'
            kept: Optional[Kept] = None
            if self.step.worth_dropping(step, len(batch.sentences) - len(remaining)):
                kept = Kept(remaining, torch.tensor(remaining, device=ended.device))
                candidates, ended = candidates.of(kept), ended.index_select(0, kept.on_device)  # (B', c)
                self.ended.keep(kept)
                batch.keep(kept)
            # 6. The others continue with their b best candidates that have not ended.
            self.step.advance(step, candidates, ended, kept)
        return self.ended.best_first()
