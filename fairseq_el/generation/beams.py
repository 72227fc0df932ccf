"""The hypotheses of a search that are under way, and the words that may continue them."""

from __future__ import annotations

from typing import List, NamedTuple, Optional, Tuple

import torch
from torch import Tensor


class Kept(NamedTuple):
    """The sentences that stay in the search when others leave, by their places among those still decoded, ascending."""

    places: List[int]  # B' of them
    on_device: Tensor  # the same, (B')


class Candidates(NamedTuple):
    """The best continuations of each sentence by one word, best first. *Shape:* ``(B, c)`` each."""

    scores: Tensor  # of the whole hypothesis
    tokens: Tensor  # the word to append
    beams: Tensor  # the beam to append it to, from 0 to b - 1

    def of(self, kept: Kept) -> Candidates:
        """Those of the sentences that stay."""
        return Candidates(*(tensor.index_select(0, kept.on_device) for tensor in self))


class Beams:
    """Words and scores of the hypotheses under way: ``B`` sentences with ``b`` beams each, side by side."""

    def __init__(self, num_sentences: int, beam_size: int, max_len: int, pad: int, first: Tensor, device: torch.device):
        """
        Args:
            max_len: words of the longest hypothesis, without eos.
            first: the symbol that the hypotheses of each sentence begin with. *Shape:* ``(B)``.
        """
        rows = num_sentences * beam_size
        self.beam_size = beam_size
        self.max_len = max_len
        self.tokens = torch.full((rows, max_len + 2), pad, dtype=torch.long, device=device)
        self.tokens[:, 0] = first.repeat_interleave(beam_size)
        self.scores = torch.zeros(rows, max_len + 1, device=device)  # cumulative, of words 1, 2, ...
        self.attention: Optional[Tensor] = None  # (B * b, n, max_len + 2), if anybody asked for it
        # Beams that have ended, in sentences that have not: they are continued, and what becomes of them is ignored.
        self.ignore = torch.zeros(num_sentences, beam_size, dtype=torch.bool, device=device)

    @property
    def num_sentences(self) -> int:
        return self.ignore.size(0)

    def rows(self, part: slice) -> slice:
        """The rows of some sentences, given by their first and the one after the last."""
        return slice(part.start * self.beam_size, part.stop * self.beam_size)

    def begin_with(self, words: Tensor, scores: Tensor) -> None:
        """Gives every sentence its first words, in its first beam; the others get a score of minus infinity.

        Args:
            words: *Shape:* ``(B, t)``.
            scores: of each word. *Shape:* ``(B, t)``.
        """
        length = words.size(1)
        self.tokens[:, 1 : length + 1] = words.repeat_interleave(self.beam_size, dim=0)
        self.scores[:, :length] = float("-inf")
        first_beams = self.scores[:: self.beam_size]
        for i in range(length):  # rounded after every word, as a search would; cumsum rounds less often
            first_beams[:, i] = scores[:, i] if i == 0 else scores[:, i] + first_beams[:, i - 1]

    def record_attention(self, position: int, attn: Optional[Tensor]) -> None:
        """``attn`` of the word at ``position``: ``(B * b, n)``."""
        if attn is None:
            return
        if self.attention is None:
            self.attention = self.scores.new_zeros(attn.size(0), attn.size(1), self.max_len + 2)
        self.attention[:, :, position] = attn

    def keep(self, kept: Kept) -> None:
        """Drops all other sentences."""
        sentences = kept.on_device
        beams = torch.arange(self.beam_size, device=sentences.device)
        rows = (sentences.unsqueeze(1) * self.beam_size + beams).view(-1)
        self.tokens = self.tokens.index_select(0, rows)
        self.scores = self.scores.index_select(0, rows)
        self.ignore = self.ignore.index_select(0, sentences)
        if self.attention is not None:
            self.attention = self.attention.index_select(0, rows)

    def advance(self, step: int, candidates: Candidates, ended: Tensor) -> Tuple[Tensor, Tensor]:
        """Continues with the ``b`` best candidates of each sentence that have not ended.

        Args:
            ended: candidates that end their hypothesis. *Shape:* ``(B, c)``.

        Returns:
            which candidates, and which beams they continue. *Shape:* ``(B, b)`` each.
        """
        beam_size, num_candidates = self.beam_size, ended.size(1)
        ended = ended.clone()
        ended[:, :beam_size] |= self.ignore
        # Best first among those that go on, then, if there are not b of them, those that do not.
        rank = torch.arange(num_candidates, device=ended.device) + ended.long() * 2 * beam_size
        rank, active = torch.topk(rank, k=beam_size, dim=1, largest=False)
        self.ignore = rank >= 2 * beam_size

        beams = candidates.beams.gather(1, active)
        offsets = torch.arange(self.num_sentences, device=beams.device).unsqueeze(1) * beam_size
        rows = (beams + offsets).view(-1)
        self.tokens[:, : step + 1] = self.tokens[:, : step + 1].index_select(0, rows)
        self.tokens[:, step + 1] = candidates.tokens.gather(1, active).view(-1)
        self.scores[:, :step] = self.scores[:, :step].index_select(0, rows)
        self.scores[:, step] = candidates.scores.gather(1, active).view(-1)
        if self.attention is not None:
            self.attention[:, :, : step + 2] = self.attention[:, :, : step + 2].index_select(0, rows)
        return active, beams
