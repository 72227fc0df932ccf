"""Plain beam search from logits: what fairseq's ``BeamSearch`` finds in log-probabilities."""

from __future__ import annotations

from typing import Optional, Tuple

import torch
from torch import Tensor

from fairseq_el.generation.beams import Candidates
from fairseq_el.ops import top_of_rows


def best_candidates(
    logits: Tensor, normalizer: Tuple[Tensor, Tensor], scores: Optional[Tensor], beam_size: int
) -> Candidates:
    """The ``2 b`` best continuations of each sentence.

    Adding a number to a row leaves the order of its words: the best ``2 b`` of each hypothesis are found among logits,
    and only they become log-probabilities.

    Args:
        logits: of the next word, under the rules of the search. *Shape:* ``(B * b, V)`` with ``V > 2 b``.
        normalizer: what :func:`log_normalizer` gave before those rules. *Shape:* ``(B * b, 1)`` each.
        scores: of the hypotheses, or None in the first step, where all beams of a sentence are the same.
            *Shape:* ``(B * b)``.
    """
    k = 2 * beam_size
    maximum, log_sum = normalizer
    if scores is None:
        logits, maximum, log_sum = logits[::beam_size], maximum[::beam_size], log_sum[::beam_size]
    values, words = top_of_rows(logits, k)
    values = values - maximum - log_sum
    values.masked_fill_(values.isnan(), float("-inf"))  # as fairseq treats NaN
    if scores is None:
        return Candidates(values, words, torch.zeros_like(words))
    values = (values + scores.unsqueeze(1)).view(-1, beam_size * k)
    best, chosen = torch.topk(values, k, dim=1)
    words = words.view(values.shape).gather(1, chosen)
    return Candidates(best, words, torch.div(chosen, k, rounding_mode="floor"))
