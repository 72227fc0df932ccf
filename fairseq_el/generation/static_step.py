"""One step of plain beam search over storage that stays in place: the same work on a device every time.

Symbols: ``B`` sentences, ``b`` beams, ``rows = B * b``, ``V`` words of the vocabulary, ``n`` the size of an n-gram.
"""

from __future__ import annotations

from typing import List, Optional

import torch
from torch import Tensor

from fairseq_el.decoding import StaticState, decode_in_place, embedded_positions
from fairseq_el.generation.batch import ActiveBatch
from fairseq_el.generation.ensemble import EnsembleDecoder
from fairseq_el.generation.hypotheses import Beams, Candidates, best_candidates
from fairseq_el.generation.rules import SearchRules
from fairseq_el.ops import block_in_place
from fairseq_el.policy import static_output_rows


class StaticStep:
    """Decodes the last word of every beam, and continues each sentence with its best candidates.

    Called once for every step. Nothing in a call waits for the device, depends on the number of the step, or leaves a
    result in new storage. So a CUDA graph of one call does all others, until :meth:`keep` or new storage of the state.

    Attributes:
        integers: of the last call: the words that beams continue with, the beams that these continue, the beams of the
            ``b`` best candidates, and 1 where these end their hypothesis. *Shape:* ``(4, B, b)``.
        scores: of the last call, cumulative: of the beams, and of the ``b`` best candidates. *Shape:* ``(2, B, b)``.
    """

    def __init__(
        self,
        rules: SearchRules,
        batch: ActiveBatch,
        decoders: EnsembleDecoder,
        beams: Beams,
        state: StaticState,
        step: int,
    ):
        """
        Args:
            beams: the hypotheses under way, whose tensors are overwritten.
            state: what the only model of ``decoders`` keeps.
            step: the number of the first step, from 1; the words before it are there.
        """
        self._rules, self._decoders, self._state = rules, decoders, state
        (self._decoder,) = decoders.models
        device, num_sentences, beam_size = batch.device, beams.num_sentences, beams.beam_size
        self._step = torch.tensor([step], device=device)
        self._ignore = beams.ignore
        blocker = rules.ngram_blocker
        self._ngram_size = 0 if blocker is None else int(blocker.no_repeat_ngram_size)
        self._tokens = None if blocker is None else beams.tokens  # (rows, max_len + 2)
        self._positions: Optional[Tensor] = None  # (max_len + 1, d)
        positions = embedded_positions(self._decoder.model.decoder, batch.max_len + 1, device)
        if positions is not None:
            self._positions = positions[0].contiguous()
        self._biases = _word_biases(rules).to(device)  # (4, V)
        self._kinds = _kinds_of_steps(rules, batch).to(device)  # (B, max_len + 1), or (1, max_len + 1)
        self._first_rows = torch.arange(num_sentences, device=device).unsqueeze(1) * beam_size  # (B, 1)
        self._ranks = torch.arange(2 * beam_size, device=device)
        shape = (num_sentences, beam_size)
        self.integers = torch.zeros(4, *shape, dtype=torch.long, device=device)
        self.scores = torch.zeros(2, *shape, dtype=beams.scores.dtype, device=device)
        self.integers[0] = beams.tokens[:, step].view(shape)
        self.scores[0] = beams.scores[:, step - 1].view(shape)

    def __call__(self) -> None:
        # 1. The decoder's output for the last word of every beam.  (rows, 1, d)
        self._state.tree.add_nodes()
        positions = None if self._positions is None else self._positions.index_select(0, self._step).unsqueeze(0)
        model = self._decoder.model
        words = self.integers[0].view(-1, 1)  # (rows, 1)
        features = decode_in_place(model.decoder, words, positions, self._decoder.encoder_out, self._state)
        # 2. The best continuations.  (B, 2b) each
        found = self._search(features)
        # 3. Each sentence continues with the b best that have not ended.  (B, b)
        active = self._end(found)
        self._advance(found, active)

    def _search(self, features: Tensor) -> Candidates:
        """Candidates under the rules, for a part of the sentences at a time."""
        rules, beam_size, num_sentences = self._rules, self._rules.beam_size, self._ignore.size(0)
        rows_at_once = static_output_rows(self._decoders.encoder_tokens, features.size(2), rules.vocab_size)
        part_size = max(rows_at_once // beam_size, 1)
        kinds = self._kinds.index_select(1, self._step).squeeze(1)  # (B), or (1) if all sentences have the same
        common = self._biases.index_select(0, kinds) if kinds.numel() == 1 else None  # (1, V)
        cumulative = self.scores[0].view(-1)  # (rows)
        found: List[Candidates] = []
        for begin in range(0, num_sentences, part_size):
            part = slice(begin, min(begin + part_size, num_sentences))
            rows = slice(part.start * beam_size, part.stop * beam_size)
            bias = self._biases.index_select(0, kinds[part]) if common is None else common  # (B', V)
            log_probs = self._decoders.log_probs([features[rows]], rules.temperature)  # (B'*b, V)
            log_probs.view(-1, beam_size, log_probs.size(1)).add_(bias.unsqueeze(1))
            if self._tokens is not None:
                block_in_place(log_probs, self._tokens[rows], self._step, self._ngram_size)
            settles_ties = features.element_size() > 2
            found.append(best_candidates(log_probs, cumulative[rows], rules.strategy, beam_size, settles_ties))
        return found[0] if len(found) == 1 else Candidates(*map(torch.cat, zip(*found)))

    def _end(self, found: Candidates) -> Tensor:
        """Tells the host which hypotheses end, and chooses candidates that go on. *Shape:* ``(B, 2 b)`` to ``(B, b)``.

        The rules are those of :func:`ending` and :func:`going_on`, with fewer launches.
        """
        best = slice(0, self._rules.beam_size)
        ended = found.tokens.eq(self._rules.eos).logical_and_(found.scores.ne(float("-inf")))
        torch.gt(ended[:, best], self._ignore, out=self.integers[3])  # ended and not ignored
        ended[:, best].logical_or_(self._ignore)
        count = ended.size(1)
        ranks = torch.add(self._ranks, ended, alpha=count)  # (B, 2b): those that do not go on come last
        ranks, active = torch.topk(ranks, self._rules.beam_size, dim=1, largest=False)
        torch.ge(ranks, count, out=self._ignore)
        return active

    def _advance(self, found: Candidates, active: Tensor) -> None:
        """Writes the words, scores and ancestors of the beams, and what the host is told.

        Args:
            found: *Shape:* ``(B, 2 b)`` each.
            active: the candidates that go on. *Shape:* ``(B, b)``.
        """
        best, (words, parents, beams_of_best, _) = slice(0, self._rules.beam_size), self.integers
        torch.gather(found.tokens, 1, active, out=words)
        torch.gather(found.beams, 1, active, out=parents)
        torch.gather(found.scores, 1, active, out=self.scores[0])
        beams_of_best.copy_(found.beams[:, best])
        self.scores[1].copy_(found.scores[:, best])
        self._state.tree.reorder(parents)
        self._step.add_(1)
        if self._tokens is not None:
            rows = (parents + self._first_rows).view(-1)
            self._tokens.copy_(self._tokens.index_select(0, rows))
            self._tokens.index_copy_(1, self._step, words.view(-1, 1))

    def keep(self, sentences: Tensor) -> None:
        """Drops all other sentences, here and in what the model keeps. ``sentences``: ``(B')``, ascending."""
        beam_size, count = self._rules.beam_size, sentences.numel()
        beams = torch.arange(beam_size, device=sentences.device)
        rows = (sentences.unsqueeze(1) * beam_size + beams).view(-1)
        self._decoder.drop_sentences(rows)
        self._state.keep(sentences)
        self._ignore = self._ignore.index_select(0, sentences)
        self._first_rows = self._first_rows[:count]
        if self._kinds.size(0) > 1:
            self._kinds = self._kinds.index_select(0, sentences)
        if self._tokens is not None:
            self._tokens = self._tokens.index_select(0, rows)
        self.integers, self.scores = (t.index_select(1, sentences) for t in (self.integers, self.scores))


def _word_biases(rules: SearchRules) -> Tensor:
    """Numbers to add to log-probabilities of words, for each of four kinds of steps. *Shape:* ``(4, V)``.

    Hypotheses may end in steps of kind 0, may not yet in those of kind 1, and must in those of kind 2. They can't go
    on in those of kind 3, where they must end and may not.
    """
    never = float("-inf")
    usual = torch.zeros(rules.vocab_size)
    usual[rules.unk] = -rules.unk_penalty
    usual[rules.pad] = never
    if rules.suppressed is not None:
        usual[rules.suppressed.cpu()] = never
    early, last = usual.clone(), torch.full_like(usual, never)
    early[rules.eos] = never
    last[rules.eos] = usual[rules.eos]
    return torch.stack([usual, early, last, torch.full_like(usual, never)])


def _kinds_of_steps(rules: SearchRules, batch: ActiveBatch) -> Tensor:
    """The kind of every step, for each sentence, or for all where their limits of length are the same.

    They hold after prompts; where sentences have limits of their own, as :class:`LengthLimits` has them.

    Returns:
        *Shape:* ``(B, max_len + 1)`` or ``(1, max_len + 1)``.
    """
    limits = batch.limits
    given = ([0], [rules.min_len], [batch.max_len])
    if limits is not None:
        given = (limits.prompts, limits.may_end, limits.last)
    prompts, may_end, last = (torch.tensor(values).unsqueeze(1) for values in given)  # (B, 1) each
    steps = torch.arange(batch.max_len + 1)
    too_early = (prompts <= steps) & (steps < may_end)
    if not rules.alone:
        too_early = too_early | (steps < rules.min_len)
    return too_early.long() + 2 * (steps >= last).long()
