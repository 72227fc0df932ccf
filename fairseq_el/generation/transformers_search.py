"""Beam search under the rules of transformers' ``generate()``: when it ends, what it forbids, and how it scores.

fairseq's rules are others. It stops as soon as it has as many hypotheses as beams, ends the longest with an eos, and
counts forced words and their log-probabilities.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Dict, List, Optional, Tuple, Type, Union

import torch
from torch import Tensor

from fairseq_el.errors import OptionError
from fairseq_el.generation.batch import prompt_lengths
from fairseq_el.generation.beams import Candidates, Hypotheses
from fairseq_el.generation.length_limits import Limits
from fairseq_el.generation.loop import BatchDecoding, NoWordLeftError

NOTHING = -1e9  # the score of a hypothesis that is not there yet


@dataclass(frozen=True)
class TransformersRules:
    """Settings of ``generate()`` that fairseq has no options for. Words are indices of fairseq's dictionary.

    Attributes:
        early_stopping: True, False or ``"never"``.
        forced_first: the first word of every hypothesis (``forced_bos_token_id``); prompts have none.
        forced_last: the last word of hypotheses as long as they may be (``forced_eos_token_id``).
        forbidden: sequences of words that no hypothesis has (``bad_words_ids``, ``suppress_tokens``).
        forbidden_first: words that no hypothesis begins with (``begin_suppress_tokens``).
        continues_prompts: scores and their lengths are of the words after the prompt, as of language models.
    """

    early_stopping: Union[bool, str] = False
    forced_first: Optional[int] = None
    forced_last: Optional[int] = None
    forbidden: Tuple[Tuple[int, ...], ...] = ()
    forbidden_first: Tuple[int, ...] = ()
    continues_prompts: bool = False


class TransformersDecoding(BatchDecoding):
    """Plain beam search; every sentence is decoded as ``generate()`` decodes it by itself."""

    scores_prompts = False
    limits: Limits

    def __init__(self, generator: Any, *batch: Any):
        self.rules: TransformersRules = generator.transformers_rules
        super().__init__(generator, *batch)
        self.ranked = RankedHypotheses(len(self.sentences), generator.beam_size, self.max_len, self.beams.tokens.device)
        self._ended: Dict[int, List[Dict[str, Any]]] = {}
        # Without beams it stops at the first eos, whatever else is said.
        self.stops_early = self.rules.early_stopping is True or generator.beam_size == 1
        lengths = range(1, self.max_len + 2)
        power = generator.len_penalty if generator.normalize_scores else 0.0
        device = self.beams.tokens.device
        self._divisors = torch.tensor([length**power for length in lengths], device=device)
        # Moved to the device once, not in every step.
        single = [sequence[0] for sequence in self.rules.forbidden if len(sequence) == 1]
        self._forbidden = torch.tensor(single, device=device) if single else None
        self._forbidden_first = torch.tensor(self.rules.forbidden_first, dtype=torch.long, device=device)
        self._sequences = [
            (torch.tensor(before, device=device), last) for *before, last in self.rules.forbidden if before
        ]

    def run(self) -> Hypotheses:
        super().run()
        self._store(range(len(self.sentences)))
        without = sorted(sentence for sentence, found in self._ended.items() if not found)
        if without:
            raise NoWordLeftError(without)
        return [self._ended[sentence] for sentence in sorted(self._ended)]

    def _limits(self, num_sentences: int, device: torch.device) -> Limits:
        of_prompts = super()._limits(num_sentences, device)
        if of_prompts is not None:
            return of_prompts
        prompts = [0] * num_sentences
        if self.rules.continues_prompts and self.prefix_tokens is not None:
            prompts = prompt_lengths(self.generator, self.prefix_tokens)
        if max(prompts) > self.max_len:
            raise OptionError(
                f"a prompt must leave room for one more token; one has {max(prompts) + 1} tokens, and prompt and "
                f"continuation together may have {self.max_len + 2} (--max-len-b, and the model's positions). Shorten "
                "the prompt, or give a larger --max-len-b or --el-max-new-tokens"
            )
        return Limits(prompts, [self.generator.min_len] * num_sentences, [self.max_len] * num_sentences, device)

    def _is_plain(self, step: int, outputs: Optional[List[Tensor]]) -> bool:
        forces = step == 0 and self.rules.forced_first is not None
        forces |= self.rules.forced_last is not None and step >= min(self.limits.last)
        return not forces and super()._is_plain(step, outputs)

    def _under_rules(self, step: int, scores: Tensor, part: slice, rows: slice) -> Tensor:
        generator, rules, limits, beam_size = self.generator, self.rules, self.limits, self.generator.beam_size
        words = self.beams.tokens[rows, : step + 1]
        generator.block_ngrams(scores, self.beams.tokens[rows], step)
        if self._forbidden is not None:
            scores.index_fill_(1, self._forbidden, float("-inf"))
        for before, last in self._sequences:
            _forbid(scores, words, before, last)
        too_early = limits.too_early(step, part, beam_size)
        if too_early is not None:
            scores[:, generator.eos].masked_fill_(too_early.squeeze(1), float("-inf"))
        if step == 0 and rules.forced_first is not None:
            _force(scores, limits.first_own(step, part, beam_size), rules.forced_first)
        if rules.forced_last is not None:
            _force(scores, limits.ending(step, part, beam_size), rules.forced_last)
        if rules.forbidden_first:
            self._forbid_first(step, scores, part)
        if self._in_prefix(step):
            assert self.prompt is not None
            self.prompt.force(step, scores, part, beam_size)
        return scores

    def _forbid_first(self, step: int, scores: Tensor, part: slice) -> None:
        """In the first step that chooses a word."""
        forced = self.rules.forced_first is not None
        begins = self.limits.first_own(step - int(forced), part, self.generator.beam_size)
        if begins is not None:
            kept = scores[:, self._forbidden_first].masked_fill(begins, float("-inf"))
            scores.index_copy_(1, self._forbidden_first, kept)

    def _end(self, step: int, candidates: Candidates) -> Tuple[Tensor, List[int]]:
        beam_size, limits, ranked = self.generator.beam_size, self.limits, self.ranked
        prompts, last = limits.prompt_lengths(), limits.last_steps()  # (B, 1)
        own = prompts <= step
        is_last = last <= step
        ended = (candidates.tokens.eq(self.generator.eos) | is_last) & own & candidates.scores.ne(float("-inf"))
        divisors = self._divisors[(step - prompts).clamp(min=0)]  # (B, 1)
        self._add(step, candidates, ended[:, :beam_size], divisors)
        hopes = divisors
        if self.rules.early_stopping == "never" and self.generator.len_penalty > 0:
            hopes = self._divisors[(last - prompts).clamp(min=0)]
        going_on = candidates.scores.masked_fill(ended, NOTHING).max(dim=1, keepdim=True)[0]
        ranked.improvable &= ~own | (going_on / hopes > ranked.worst())
        full = ranked.is_full() if self.stops_early else torch.zeros_like(own)
        done = own & (~ranked.improvable | full | is_last | ended.all(dim=1, keepdim=True))
        ranked.improvable &= ~done
        on_host = done.squeeze(1).tolist()  # the one time in a step that the host waits for the device
        self.finished |= {self.sentences[i] for i, is_done in enumerate(on_host) if is_done}
        return ended, [i for i, sentence in enumerate(self.sentences) if sentence not in self.finished]

    def _add(self, step: int, candidates: Candidates, ended: Tensor, divisors: Tensor) -> None:
        """Ranks candidates ``(B, b)`` that have ended among the hypotheses that had ended before."""
        beams, beam_size = self.beams, self.generator.beam_size
        best = Candidates(*(tensor[:, :beam_size] for tensor in candidates))
        offsets = torch.arange(beams.num_sentences, device=beams.tokens.device).unsqueeze(1) * beam_size
        rows = best.beams + offsets  # (B, b)
        words, cumulative = beams.tokens[rows][:, :, 1:], beams.scores[rows]  # (B, b, max_len + 1)
        words[:, :, step] = best.tokens
        cumulative[:, :, step] = best.scores
        self.ranked.add(ended, best.scores / divisors, words, cumulative, step + 1)

    def _keep(self, remaining: List[int], kept: Tensor) -> None:
        self._store(set(range(len(self.sentences))) - set(remaining))
        super()._keep(remaining, kept)
        self.ranked.keep(kept)

    def _store(self, numbers: Any) -> None:
        for number in numbers:
            self._ended[self.sentences[number]] = self.ranked.hypotheses(number)


def decoding_class(generator: Any) -> Type[BatchDecoding]:
    """How the generator searches."""
    return TransformersDecoding if generator.searches_as_transformers else BatchDecoding


class RankedHypotheses:
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
