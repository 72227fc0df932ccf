"""Plain beam search: what fairseq's ``BeamSearch`` finds, without sorting all words of all hypotheses."""

from __future__ import annotations

from typing import Any, Optional

import torch
from torch import Tensor

from fairseq_el.generation.beams import Candidates
from fairseq_el.ops import top_of_rows


def best_candidates(log_probs: Tensor, scores: Optional[Tensor], search: Any, beam_size: int) -> Candidates:
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
    if log_probs.device.type != "cpu":
        return best
    in_order = (values[:, :-1] > values[:, 1:]) | (values[:, 1:] == float("-inf"))
    tied = (~in_order.all(dim=1)).nonzero()[:, 0]
    if tied.numel() == 0:
        return best
    return _as_stock(log_probs, scores, search, beam_size, tied, best)


def _as_stock(
    log_probs: Tensor, scores: Optional[Tensor], search: Any, beam_size: int, sentences: Tensor, best: Candidates
) -> Candidates:
    """``best``, with what ``search`` finds for some of the sentences put in. ``sentences``: ``(B')``."""
    of_beams = log_probs.view(-1, beam_size, log_probs.size(1)).index_select(0, sentences)
    of_beams = of_beams.masked_fill(of_beams.isnan(), float("-inf"))
    if scores is None:
        found = search.step(0, of_beams, None)
    else:
        found = search.step(1, of_beams, scores.view(-1, beam_size, 1).index_select(0, sentences))
    return Candidates(*(mine.index_copy(0, sentences, theirs) for mine, theirs in zip(best, found)))
