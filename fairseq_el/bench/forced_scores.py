"""Scores that a model gives words that are already written."""

from __future__ import annotations

from typing import Any, Callable, Dict, List, Tuple

import torch
from torch import Tensor

from fairseq_el.dtypes import place_of


class ReferenceScores:
    """Log-probabilities of outputs, read in one pass (teacher forced), one sentence at a time to use little memory.

    Most programs write the same outputs, so what has been scored is remembered.
    """

    def __init__(self, model: Any, eos: int):
        self._model, self._eos = model, eos
        self._known: Dict[Tuple[Tuple[int, ...], Tuple[int, ...]], List[float]] = {}

    def __call__(self, source: Tensor, tokens: List[int]) -> List[float]:
        """The score of each of ``tokens``. ``source``: ``(n)``."""
        key = (tuple(source.tolist()), tuple(tokens))
        if key not in self._known:
            self._known[key] = self._score(source, tokens)
        return self._known[key]

    def _score(self, source: Tensor, tokens: List[int]) -> List[float]:
        device = place_of(self._model)[0]
        read = source.to(device)

        def logits(previous: Tensor) -> Tensor:
            output: Tensor = self._model(read.unsqueeze(0), torch.tensor([read.numel()], device=device), previous)[0]
            return output

        return forced_scores(logits, tokens, self._eos, device)


@torch.no_grad()
def forced_scores(
    logits: Callable[[Tensor], Tensor], tokens: List[int], first: int, device: torch.device
) -> List[float]:
    """The logarithm of the probability of each of ``tokens``, normalised in float32 as fairseq does it.

    Args:
        logits: of the next words for what the decoder has read, ``(1, t)`` to ``(1, t, V)``.
        tokens: with the eos, if there is one.
        first: the symbol that the decoder begins with.
        device: of the model.
    """
    next_words = logits(torch.tensor([[first, *tokens[:-1]]], device=device))[0].float().log_softmax(dim=-1)
    scores: List[float] = next_words.gather(1, torch.tensor(tokens, device=device).unsqueeze(1))[:, 0].tolist()
    return scores
