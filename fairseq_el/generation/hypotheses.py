"""The hypotheses of a search: those under way, and the best words to continue them."""

from __future__ import annotations

from typing import Any, Dict, List, NamedTuple, Optional, Tuple

import torch
from torch import Tensor

from fairseq_el.ops import top_of_rows

Hypotheses = List[List[Dict[str, Any]]]  # of each sentence, best first, as fairseq's generators return them


class NoWordLeftError(AssertionError):
    """No hypothesis of some sentences can end, because every word has a score of minus infinity."""

    def __init__(self, sentences: List[int]):
        """``sentences``: of the batch, if it is known which."""
        super().__init__(f"sentences {sentences} of the batch have no hypothesis")
        self.sentences = sentences


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
        """Returns the candidates of the sentences that stay."""
        return Candidates(*(tensor.index_select(0, kept.on_device) for tensor in self))


def hypothesis(tokens: Tensor, score: Tensor, positional: Tensor, attn: Optional[Tensor] = None) -> Dict[str, Any]:
    """Makes the dictionary that fairseq's generators return for a hypothesis.

    Args:
        tokens: its words, eos included. *Shape:* ``(t)``.
        score: the score by which hypotheses are compared. *Shape:* ``()``.
        positional: the words' log-probabilities. *Shape:* ``(t)``.
        attn: encoder-decoder attention, if it is recorded. *Shape:* ``(n, t)``.
    """
    return {
        "tokens": tokens,
        "score": score,
        "attention": torch.empty(0) if attn is None else attn,
        "alignment": torch.empty(0),
        "positional_scores": positional,
        "steps": tokens.size(0),  # for --print-step
    }


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
        beam_size = self.beam_size
        active, self.ignore = going_on(ended, self.ignore)
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


def ending(candidates: Candidates, ignore: Tensor, eos: int) -> Tensor:
    """Finds the candidates that end their hypothesis.

    Args:
        candidates: best first. *Shape:* ``(B, c)`` each, ``c >= b``.
        ignore: beams that have ended themselves. *Shape:* ``(B, b)``.

    Returns:
        *Shape:* ``(B, c)``.
    """
    ended = candidates.tokens.eq(eos) & candidates.scores.ne(float("-inf"))  # (B, c)
    ended[:, : ignore.size(1)] &= ~ignore
    return ended


def going_on(ended: Tensor, ignore: Tensor) -> Tuple[Tensor, Tensor]:
    """Chooses the ``b`` best candidates of each sentence that have not ended.

    Args:
        ended: candidates that end their hypothesis. *Shape:* ``(B, c)``.
        ignore: beams that have ended themselves. *Shape:* ``(B, b)``.

    Returns:
        which candidates, and which of these have ended, because there are not ``b`` others. *Shape:* ``(B, b)`` each.
    """
    beam_size = ignore.size(1)
    ended = ended.clone()
    ended[:, :beam_size] |= ignore
    # Best first among those that go on, then, if there are not b of them, those that do not.
    rank = torch.arange(ended.size(1), device=ended.device) + ended.long() * 2 * beam_size
    rank, active = torch.topk(rank, k=beam_size, dim=1, largest=False)
    return active, rank >= 2 * beam_size


def best_candidates(
    log_probs: Tensor, scores: Optional[Tensor], search: Any, beam_size: int, settle_ties: bool = True
) -> Candidates:
    """The ``2 b`` best continuations of each sentence, the same and in the same order as ``search.step`` gives them.

    The best of a sentence are among the best of its hypotheses, whose order is that of their log-probabilities. Where
    two scores are equal to the last bit, the order is that of ``torch.topk``, which depends on all words: such a
    sentence is left to ``search``. Only on a CPU: on a card the host would have to wait for the answer, so there equal
    scores come in any order. (Scores of minus infinity do so everywhere: no hypothesis ends with one.)

    Args:
        log_probs: of the next word, under the rules of the search. A NaN counts as minus infinity if all of its row,
            but for what the rules forbid, is NaN. *Shape:* ``(B * b, V)`` with ``V > 2 b``.
        scores: of the hypotheses, or None in the first step, where all beams of a sentence are the same.
            *Shape:* ``(B * b)``.
        search: fairseq's ``BeamSearch``.
        settle_ties: leave equal scores to ``search``; otherwise they come in any order on every device.
    """
    k = 2 * beam_size
    rows = log_probs[::beam_size] if scores is None else log_probs
    values, words = top_of_rows(rows, k + 1, largest_first=scores is None)  # one more, to see if it equals the last
    values = values.masked_fill_(values.isnan(), float("-inf"))
    if scores is None:
        found = Candidates(values, words, torch.zeros_like(words))
    else:
        values = (values + scores.unsqueeze(1)).view(-1, beam_size * (k + 1))
        values, chosen = torch.topk(values, k + 1, dim=1)
        words = words.view(-1, beam_size * (k + 1)).gather(1, chosen)
        found = Candidates(values, words, torch.div(chosen, k + 1, rounding_mode="floor"))
    best = Candidates(*(tensor[:, :k] for tensor in found))
    if settle_ties and log_probs.device.type == "cpu":
        in_order = (values[:, :-1] > values[:, 1:]) | (values[:, 1:] == float("-inf"))
        for sentence in (~in_order.all(dim=1)).nonzero()[:, 0].tolist():
            part = slice(sentence * beam_size, (sentence + 1) * beam_size)
            found = _by_search(log_probs[part], None if scores is None else scores[part], search)
            for mine, theirs in zip(best, found):
                mine[sentence] = theirs[0]
    return best


def _by_search(log_probs: Tensor, scores: Optional[Tensor], search: Any) -> Candidates:
    """Asks ``search`` for the candidates of one sentence. ``log_probs``: ``(b, V)``."""
    if bool(log_probs.isnan().any()):
        log_probs = log_probs.masked_fill(log_probs.isnan(), float("-inf"))
    step = 0 if scores is None else 1  # the scores are those of the word before
    return Candidates(*search.step(step, log_probs.unsqueeze(0), None if scores is None else scores.view(1, -1, 1)))
