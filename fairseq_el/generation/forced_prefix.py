"""The words that every hypothesis of a sentence begins with, read in one pass of the decoder."""

from __future__ import annotations

from typing import List, Optional

import torch
from torch import Tensor

from fairseq_el.generation.ensemble import EnsembleDecoder, mean_attention
from fairseq_el.generation.hypotheses import Kept
from fairseq_el.generation.rules import SearchRules, without_nan
from fairseq_el.policy import output_rows_at_once, sentences_at_once


class Prompt:
    """The decoder's first symbol and the forced words after it (fairseq's ``prefix_tokens``), for all sentences.

    Symbols: ``B`` sentences, ``b`` beams, ``p`` forced words of the longest prompt.

    Attributes:
        words: the forced words, padded at their ends. *Shape:* ``(B, p)``.
        lengths: how many are forced, of each sentence.
        longest, shortest: the most and the fewest of them.
        first_step: where the search begins.
        log_probs: of the forced words; None if there are none, or before :meth:`read`. *Shape:* ``(B, p)``.
        attention: of every position, if it is recorded. *Shape:* ``(B, p + 1, n)``.
    """

    def __init__(self, words: Tensor, lengths: Optional[List[int]], first_step: int):
        """``lengths``: None if no words are forced."""
        self.words = words
        self.lengths = lengths or [0] * words.size(0)
        self.first_step = first_step
        self.longest = max(self.lengths)
        self.shortest = min(self.lengths)
        self.log_probs: Optional[Tensor] = None
        self.attention: Optional[Tensor] = None
        self._ends = torch.tensor(self.lengths, device=words.device)  # (B)

    def read(self, decoders: EnsembleDecoder, first: Tensor, rules: SearchRules, scored: bool) -> None:
        """Runs the decoders over the prompts, part by part, so that little is in flight at a time.

        Args:
            first: the first symbol of each sentence. *Shape:* ``(B)``.
            scored: whether forced words have their log-probabilities; else 0, as if they were certain.
        """
        tokens = torch.cat([first.unsqueeze(1), self.words], dim=1)  # (B, p + 1)
        ends = None if self.shortest == self.longest else self._ends + 1
        part_size = sentences_at_once(decoders.encoder_tokens, tokens.size(1))
        log_probs, attns = [], []
        for begin in range(0, tokens.size(0), part_size):
            part = slice(begin, min(begin + part_size, tokens.size(0)))
            outputs = [model.prompt(tokens[part], ends, part, decoders.need_attn) for model in decoders.models]
            attns.append(mean_attention([attn for _, attn in outputs]))
            if self.longest > 0 and scored:
                features = [features[:, :-1] for features, _ in outputs]
                log_probs.append(_log_probs_of(self.words[part], features, decoders, rules))
        self.log_probs = torch.cat(log_probs) if log_probs else None
        if self.longest > 0 and not scored:
            self.log_probs = torch.zeros(self.words.shape, device=self.words.device)
        self.attention = torch.cat(attns) if attns[0] is not None else None  # type: ignore[arg-type]

    def in_search(self, step: int) -> Optional[Tensor]:
        """Sentences whose prompt ended before ``step``; None if all have. *Shape:* ``(B)``."""
        return None if self.longest < step else self._ends < step

    def add_first(self, step: int, decoders: EnsembleDecoder, outputs: Optional[List[Tensor]]) -> List[Tensor]:
        """Features of all beams, with those of the last words of prompts that end at ``step`` put in.

        Args:
            outputs: of each model, if the decoders have run this step. *Shape:* ``(B * b, 1, d)``.
        """
        firsts = [model.first() for model in decoders.models]
        if outputs is None:
            return firsts
        at_end = self._rows(self._ends == step, decoders.models[0].beam_size).unsqueeze(2)
        return [torch.where(at_end, first, output) for first, output in zip(firsts, outputs)]

    def add_attention(self, step: int, attn: Optional[Tensor], beam_size: int) -> Optional[Tensor]:
        """``attn`` ``(B * b, n)`` of a step, or None if the decoders have not run, with that of prompts put in."""
        if self.attention is None or step > self.longest:
            return attn
        begun = self.attention[:, step].repeat_interleave(beam_size, dim=0)
        return begun if attn is None else torch.where(self._rows(self._ends >= step, beam_size), begun, attn)

    def force(self, step: int, log_probs: Tensor, part: slice, beam_size: int) -> None:
        """Leaves sentences that are still in their prompt only the next word of it. ``log_probs``: ``(rows, V)``."""
        if step >= self.longest:
            return
        assert self.log_probs is not None
        forced = self._rows(self._ends[part] > step, beam_size)  # (rows, 1)
        words = self.words[part, step].repeat_interleave(beam_size).unsqueeze(1)
        known = self.log_probs[part, step].repeat_interleave(beam_size).unsqueeze(1).to(log_probs)
        values = torch.where(forced, known, log_probs.gather(1, words))
        log_probs.masked_fill_(forced, float("-inf")).scatter_(1, words, values)

    def keep(self, kept: Kept) -> None:
        """Drops all other sentences."""
        self.lengths = [self.lengths[i] for i in kept.places]
        self.longest, self.shortest = max(self.lengths), min(self.lengths)
        self.words = self.words.index_select(0, kept.on_device)
        self._ends = self._ends.index_select(0, kept.on_device)
        if self.log_probs is not None:
            self.log_probs = self.log_probs.index_select(0, kept.on_device)
        if self.attention is not None:
            self.attention = self.attention.index_select(0, kept.on_device)

    @staticmethod
    def _rows(of_sentences: Tensor, beam_size: int) -> Tensor:
        """``(B)`` to ``(B * b, 1)``."""
        return of_sentences.repeat_interleave(beam_size).unsqueeze(1)


def _log_probs_of(words: Tensor, features: List[Tensor], decoders: EnsembleDecoder, rules: SearchRules) -> Tensor:
    """Log-probabilities of ``words`` ``(B', p)``, given ``features`` of each model ``(B', p, d)``: ``(B', p)``."""
    flat_words = words.reshape(-1, 1)
    flat = [f.reshape(-1, 1, f.size(2)) for f in features]  # (B', p, d) -> (B'*p, 1, d)
    result = []
    part_size = output_rows_at_once(decoders.encoder_tokens, flat[0].size(2), rules.vocab_size)
    for begin in range(0, flat_words.size(0), part_size):
        part = slice(begin, begin + part_size)
        log_probs = decoders.log_probs([f[part] for f in flat], rules.temperature)
        result.append(rules.penalize(log_probs).gather(1, flat_words[part]))
    return without_nan(torch.cat(result)).view_as(words)


def forced_lengths(rules: SearchRules, prefix_tokens: Tensor, max_len: int) -> Optional[List[int]]:
    """Words that each prefix forces; None where prefixes can't be read in one pass and the search is forced along.

    That is so with a language model beside, and where a prefix is padded but at its end or has an eos in it.

    Args:
        prefix_tokens: *Shape:* ``(B, p)``.
        max_len: words of the longest output; the prefix beyond them is ignored.
    """
    if rules.language_model is not None:
        return None
    words = prefix_tokens[:, :max_len]
    is_word = words.ne(rules.pad)
    lengths = is_word.sum(dim=1)  # (B)
    at_ends = is_word == (torch.arange(words.size(1), device=lengths.device) < lengths.unsqueeze(1))
    ends_something = rules.transformers is None  # as transformers has it, an eos in a prompt ends nothing
    if not bool(at_ends.all()) or (ends_something and bool(words.eq(rules.eos).any())):
        return None
    result: List[int] = lengths.tolist()
    return result
