"""Beam search under the rules of transformers' ``generate()``: when it ends, what it forbids, and how it scores.

fairseq's rules are others. It stops as soon as it has as many hypotheses as beams, ends the longest with an eos, and
counts forced words and their log-probabilities. Here every sentence is decoded as ``generate()`` decodes it by itself.
"""

from __future__ import annotations

from typing import Any, Dict, Iterable, List, Optional

import torch
from torch import Tensor

from fairseq_el.generation.batch import ActiveBatch
from fairseq_el.generation.forced_prefix import Prompt
from fairseq_el.generation.hypotheses import Beams, Candidates, Hypotheses, Kept, NoWordLeftError
from fairseq_el.generation.rules import LengthLimits, SearchRules, TransformersRules
from fairseq_el.generation.word_rules import WordRules

NOTHING = -1e9  # the score of a hypothesis that is not there yet


class TransformersWordRules(WordRules):
    """The rules of ``generate()`` for the next word.

    Symbols: ``b`` beams, ``V`` words of the vocabulary, ``rows`` the beams of the sentences of a part.
    """

    def __init__(self, rules: SearchRules, batch: ActiveBatch):
        super().__init__(rules, batch)
        assert rules.transformers is not None and batch.limits is not None
        self._given: TransformersRules = rules.transformers
        self._limits: LengthLimits = batch.limits
        # Moved to the device once, not in every step.
        device = batch.device
        single = [sequence[0] for sequence in self._given.forbidden if len(sequence) == 1]
        self._forbidden = torch.tensor(single, device=device) if single else None
        self._forbidden_first = torch.tensor(self._given.forbidden_first, dtype=torch.long, device=device)
        self._sequences = [
            (torch.tensor(before, device=device), last) for *before, last in self._given.forbidden if before
        ]

    def forces_words(self, step: int) -> bool:
        forces = step == 0 and self._given.forced_first is not None
        forces |= self._given.forced_last is not None and step >= min(self._limits.last)
        return forces or super().forces_words(step)

    def apply(self, step: int, scores: Tensor, part: slice, beams: Beams, prompt: Optional[Prompt]) -> Tensor:
        given, limits, beam_size = self._given, self._limits, self.rules.beam_size
        rows = beams.rows(part)
        words = beams.tokens[rows, : step + 1]
        self.rules.block_ngrams(scores, beams.tokens[rows], step)
        if self._forbidden is not None:
            scores.index_fill_(1, self._forbidden, float("-inf"))
        for before, last in self._sequences:
            _forbid(scores, words, before, last)
        too_early = limits.too_early(step, part, beam_size)
        if too_early is not None:
            scores[:, self.rules.eos].masked_fill_(too_early.squeeze(1), float("-inf"))
        if step == 0 and given.forced_first is not None:
            _force(scores, limits.first_own(step, part, beam_size), given.forced_first)
        if given.forced_last is not None:
            _force(scores, limits.ending(step, part, beam_size), given.forced_last)
        if given.forbidden_first:
            self._forbid_first(step, scores, part)
        if self.batch.in_prefix(step):
            assert prompt is not None
            prompt.force(step, scores, part, beam_size)
        return scores

    def _forbid_first(self, step: int, scores: Tensor, part: slice) -> None:
        """Forbids the words that none begins with, in the first step that chooses a word."""
        forced = self._given.forced_first is not None
        begins = self._limits.first_own(step - int(forced), part, self.rules.beam_size)
        if begins is not None:
            kept = scores[:, self._forbidden_first].masked_fill(begins, float("-inf"))
            scores.index_copy_(1, self._forbidden_first, kept)


class RankedHypotheses:
    """The hypotheses that have ended, as ``generate()`` counts them: a sentence is finished when none can be better.

    Symbols: ``B`` sentences, ``b`` beams, ``c`` candidates of a sentence.
    """

    def __init__(self, rules: SearchRules, batch: ActiveBatch):
        assert rules.transformers is not None and batch.limits is not None
        self._rules = rules
        self._given: TransformersRules = rules.transformers
        self._batch = batch
        self._limits: LengthLimits = batch.limits
        self._best = _BestHypotheses(len(batch.sentences), rules.beam_size, batch.max_len, batch.device)
        self._of_sentence: Dict[int, List[Dict[str, Any]]] = {}  # of those that have left
        # Without beams it stops at the first eos, whatever else is said.
        self._stops_early = self._given.early_stopping is True or rules.beam_size == 1
        lengths = range(1, batch.max_len + 2)
        power = rules.len_penalty if rules.normalize_scores else 0.0
        self._divisors = torch.tensor([length**power for length in lengths], device=batch.device)

    def end(self, step: int, candidates: Candidates, beams: Beams) -> Tensor:
        """Takes the hypotheses that end in this step; see :meth:`EndedHypotheses.end`."""
        batch, limits, best, beam_size = self._batch, self._limits, self._best, beams.beam_size
        prompts, last = limits.prompt_lengths(), limits.last_steps()  # (B, 1)
        own = prompts <= step
        is_last = last <= step
        ended = (candidates.tokens.eq(self._rules.eos) | is_last) & own & candidates.scores.ne(float("-inf"))
        divisors = self._divisors[(step - prompts).clamp(min=0)]  # (B, 1)
        self._add(step, candidates, beams, ended[:, :beam_size], divisors)
        hopes = divisors
        if self._given.early_stopping == "never" and self._rules.len_penalty > 0:
            hopes = self._divisors[(last - prompts).clamp(min=0)]
        going_on = candidates.scores.masked_fill(ended, NOTHING).max(dim=1, keepdim=True)[0]
        best.improvable &= ~own | (going_on / hopes > best.worst())
        full = best.is_full() if self._stops_early else torch.zeros_like(own)
        done = own & (~best.improvable | full | is_last | ended.all(dim=1, keepdim=True))
        best.improvable &= ~done
        on_host = done.squeeze(1).tolist()  # the one time in a step that the host waits for the device
        batch.finished |= {batch.sentences[i] for i, is_done in enumerate(on_host) if is_done}
        return ended

    def _add(self, step: int, candidates: Candidates, beams: Beams, ended: Tensor, divisors: Tensor) -> None:
        """Ranks candidates ``(B, b)`` that have ended among the hypotheses that had ended before."""
        beam_size = beams.beam_size
        best = Candidates(*(tensor[:, :beam_size] for tensor in candidates))
        offsets = torch.arange(beams.num_sentences, device=beams.tokens.device).unsqueeze(1) * beam_size
        rows = best.beams + offsets  # (B, b)
        words, cumulative = beams.tokens[rows][:, :, 1:], beams.scores[rows]  # (B, b, max_len + 1)
        words[:, :, step] = best.tokens
        cumulative[:, :, step] = best.scores
        self._best.add(ended, best.scores / divisors, words, cumulative, step + 1)

    def keep(self, kept: Kept) -> None:
        """Drops all other sentences, whose hypotheses are final."""
        self._store(set(range(len(self._batch.sentences))) - set(kept.places))
        self._best.keep(kept.on_device)

    def best_first(self) -> Hypotheses:
        """Returns the hypotheses of all sentences.

        Raises:
            NoWordLeftError: a sentence has none.
        """
        self._store(range(len(self._batch.sentences)))
        without = sorted(sentence for sentence, found in self._of_sentence.items() if not found)
        if without:
            raise NoWordLeftError(without)
        return [self._of_sentence[sentence] for sentence in sorted(self._of_sentence)]

    def _store(self, places: Iterable[int]) -> None:
        for i in places:
            self._of_sentence[self._batch.sentences[i]] = self._best.hypotheses(i)


class _BestHypotheses:
    """The ``b`` best hypotheses that have ended, of each of ``B`` sentences, best first.

    Attributes:
        improvable: sentences whose search may still find a better one. *Shape:* ``(B, 1)``.
    """

    def __init__(self, num_sentences: int, beam_size: int, max_len: int, device: torch.device):
        shape = (num_sentences, beam_size)
        self.improvable = torch.ones(num_sentences, 1, dtype=torch.bool, device=device)
        self._is_there = torch.zeros(shape, dtype=torch.bool, device=device)
        self._scores = torch.full(shape, NOTHING, device=device)
        self._lengths = torch.zeros(shape, dtype=torch.long, device=device)
        self._words = torch.zeros(*shape, max_len + 1, dtype=torch.long, device=device)
        self._cumulative = torch.zeros(*shape, max_len + 1, device=device)

    def is_full(self) -> Tensor:
        """*Shape:* ``(B, 1)``."""
        return self._is_there.all(dim=1, keepdim=True)

    def worst(self) -> Tensor:
        """The score that a hypothesis must exceed to be among the best. *Shape:* ``(B, 1)``."""
        return self._scores.min(dim=1, keepdim=True)[0].masked_fill(~self.is_full(), NOTHING)

    def add(self, ended: Tensor, scores: Tensor, words: Tensor, cumulative: Tensor, length: int) -> None:
        """
        Args:
            ended: which of the candidates are hypotheses. *Shape:* ``(B, b)``.
            scores: divided by their lengths' power. *Shape:* ``(B, b)``.
            words, cumulative: their words, and sums of log-probabilities. *Shape:* ``(B, b, max_len + 1)``.
        """
        counts = ended & self.improvable
        merged = torch.cat([self._scores, scores.float().masked_fill(~counts, NOTHING)], dim=1)
        self._scores, chosen = torch.topk(merged, ended.size(1), dim=1)
        self._is_there = torch.cat([self._is_there, counts], dim=1).gather(1, chosen)
        lengths = torch.cat([self._lengths, torch.full_like(self._lengths, length)], dim=1)
        self._lengths = lengths.gather(1, chosen)
        wide = chosen.unsqueeze(2).expand(-1, -1, words.size(2))
        self._words = torch.cat([self._words, words], dim=1).gather(1, wide)
        self._cumulative = torch.cat([self._cumulative, cumulative.float()], dim=1).gather(1, wide)

    def keep(self, sentences: Tensor) -> None:
        """Drops all other sentences. ``sentences``: ``(B')``."""
        for name, tensor in vars(self).items():
            setattr(self, name, tensor.index_select(0, sentences))

    def hypotheses(self, sentence: int) -> List[Dict[str, Any]]:
        """Those of a sentence as fairseq has them."""
        nothing = torch.empty(0)
        lengths, there = self._lengths[sentence].tolist(), self._is_there[sentence].tolist()
        found = []
        for rank, length in enumerate(lengths):
            if there[rank]:
                positional = self._cumulative[sentence, rank, :length].clone()
                positional[1:] = positional[1:] - positional[:-1]  # from cumulative to each word's own
                found.append(
                    {
                        "tokens": self._words[sentence, rank, :length],
                        "score": self._scores[sentence, rank],
                        "attention": nothing,
                        "alignment": nothing,
                        "positional_scores": positional,
                        "steps": length,
                    }
                )
        return found


def _force(scores: Tensor, rows: Optional[Tensor], word: int) -> None:
    """Makes a word certain in ``rows`` ``(rows, 1)``, with log-probability 0."""
    if rows is None:
        return
    own = scores[:, word].masked_fill(rows.squeeze(1), 0.0)
    scores.masked_fill_(rows, float("-inf"))
    scores[:, word] = own


def _forbid(scores: Tensor, words: Tensor, before: Tensor, last: int) -> None:
    """Forbids ``last`` after the words ``before`` it. ``words``: so far, ``(rows, t)``."""
    if len(before) < words.size(1):  # as in transformers, a longer sequence is not compared
        follows = words[:, -len(before) :].eq(before).all(dim=1)
        scores[:, last].masked_fill_(follows, float("-inf"))
