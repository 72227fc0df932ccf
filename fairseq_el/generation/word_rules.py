"""The words that may follow in a step of the search, as fairseq forbids and forces them."""

from __future__ import annotations

from typing import Optional

from torch import Tensor

from fairseq_el.generation.batch import ActiveBatch
from fairseq_el.generation.forced_prefix import Prompt
from fairseq_el.generation.hypotheses import Beams, NoWordLeftError
from fairseq_el.generation.rules import SearchRules


class WordRules:
    """fairseq's rules for the next word: the limits of length, prefixes, suppressed words and repeated n-grams.

    Symbols: ``b`` beams, ``V`` words of the vocabulary, ``rows`` the beams of the sentences of a part.
    """

    def __init__(self, rules: SearchRules, batch: ActiveBatch):
        self.rules = rules
        self.batch = batch

    def forces_words(self, step: int) -> bool:
        """Returns whether a step may have words that are forced."""
        return self.batch.in_prefix(step)

    def apply(self, step: int, scores: Tensor, part: slice, beams: Beams, prompt: Optional[Prompt]) -> Tensor:
        """Forbids and forces words, in fairseq's order.

        Args:
            scores: log-probabilities of the next word, changed in place. *Shape:* ``(rows, V)``.
            part: the sentences that they are of.
            beams: of all sentences.
            prompt: the prompts, if they were read in one pass.

        Raises:
            NoWordLeftError: a hypothesis has not followed its prefix, because it could not.
        """
        rules, batch, beam_size = self.rules, self.batch, self.rules.beam_size
        rows = beams.rows(part)
        has_read = prompt is not None and prompt.log_probs is not None
        blocks_first = has_read and not rules.blocks_ngrams_as_stock  # a forced word may repeat an n-gram
        if blocks_first:
            rules.block_ngrams(scores, beams.tokens[rows], step)
        self._limit_length(step, scores, part)
        in_prefix = batch.in_prefix(step)
        if rules.alone:  # where min_len holds is in the limits of each sentence
            self._suppress_after_prompts(step, scores, part)
        elif not in_prefix:
            if step < rules.min_len:
                scores[:, rules.eos] = float("-inf")
            if rules.suppressed is not None:
                scores[:, rules.suppressed] = float("-inf")
        if in_prefix and has_read:
            assert prompt is not None
            prompt.force(step, scores, part, beam_size)
        elif in_prefix:
            scores = self._force_as_stock(step, scores, part, beams)
        if not blocks_first:
            rules.block_ngrams(scores, beams.tokens[rows], step)
        return scores

    def _force_as_stock(self, step: int, scores: Tensor, part: slice, beams: Beams) -> Tensor:
        """Forces words by fairseq's own code, which writes to these rows of scores and tokens too."""
        rules, batch, rows = self.rules, self.batch, beams.rows(part)
        assert batch.prefix_tokens is not None
        forced = (beams.scores[rows], beams.tokens[rows], batch.prefix_tokens[part], rules.beam_size)
        try:
            return rules.force_prefix(step, scores, *forced)[0]
        except AssertionError as error:
            raise NoWordLeftError([]) from error

    def _suppress_after_prompts(self, step: int, scores: Tensor, part: slice) -> None:
        """Takes away suppressed words where a sentence has left its own prompt."""
        if self.rules.suppressed is None:
            return
        assert self.batch.limits is not None
        free = self.batch.limits.after_prompts(step, part, self.rules.beam_size)  # (rows, 1)
        if free is not None:
            kept = scores[:, self.rules.suppressed].masked_fill(free, float("-inf"))
            scores[:, self.rules.suppressed] = kept

    def _limit_length(self, step: int, scores: Tensor, part: slice) -> None:
        """Leaves the eos alone in the last step, and takes it away where it is too early after a prompt."""
        eos, limits, beam_size = self.rules.eos, self.batch.limits, self.rules.beam_size
        if step >= self.batch.max_len:
            scores[:, :eos] = float("-inf")
            scores[:, eos + 1 :] = float("-inf")
        if limits is None:
            return
        ending = limits.ending(step, part, beam_size)  # (rows, 1)
        if ending is not None:
            of_eos = scores[:, eos].clone()
            scores.masked_fill_(ending, float("-inf"))
            scores[:, eos] = of_eos
        too_early = limits.too_early(step, part, beam_size)  # (rows, 1)
        if too_early is not None:
            scores[:, eos].masked_fill_(too_early.squeeze(1), float("-inf"))
