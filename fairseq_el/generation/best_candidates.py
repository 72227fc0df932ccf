"""Plain beam search: what fairseq's ``BeamSearch`` finds, without sorting all words of all hypotheses."""

from __future__ import annotations

from typing import Any, Optional

import torch
from torch import Tensor

from fairseq_el.generation.beams import Candidates
from fairseq_el.ops import top_of_rows


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
