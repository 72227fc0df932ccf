"""Comparison of what two programs wrote for the same sentences."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Dict, Generic, List, Mapping, Optional, Sequence, Tuple, TypeVar

Tokens = TypeVar("Tokens", str, List[int])


@dataclass(frozen=True)
class Hypothesis(Generic[Tokens]):
    """One output for a sentence.

    Attributes:
        tokens: ids in the dictionary, with the eos if the program wrote one; or, of a line ``H-`` of fairseq, the words
            with spaces between them.
        score: sum of the logarithms of all tokens' probabilities, divided by the length to the power of ``--lenpen``;
            None if the program does not tell it. fairseq-generate writes it in base 2.
        word_scores: logarithm of the probability of each token; None if the program does not tell them.
    """

    tokens: Tokens
    score: Optional[float]
    word_scores: Optional[List[float]] = None


@dataclass(frozen=True)
class Agreement(Generic[Tokens]):
    """Result of comparing the outputs of two programs.

    Attributes:
        sentences: number of sentences that at least one of them decoded.
        differing: numbers of the sentences whose hypotheses are not the same tokens in the same order of rank.
        first: hypotheses of either program for the first of these sentences, best first; None if there is none.
        largest_gap: largest difference between the scores of one rank, where the tokens are the same; NaN if a score
            is NaN, 0 if there are none to compare.
    """

    sentences: int
    differing: List[int]
    first: Optional[Tuple[Sequence[Hypothesis[Tokens]], Sequence[Hypothesis[Tokens]]]]
    largest_gap: float

    @property
    def num_identical(self) -> int:
        """Number of sentences whose hypotheses are the same."""
        return self.sentences - len(self.differing)

    def as_dict(self) -> Dict[str, Any]:
        """The attributes as JSON writes them: a hypothesis is a list of its tokens and its score."""
        first = self.first and [[[each.tokens, each.score] for each in hypotheses] for hypotheses in self.first]
        return {
            "sentences": self.sentences,
            "differing": self.differing,
            "first": first,
            "largest_gap": self.largest_gap,
        }


def compare_hypotheses(
    one: Mapping[int, Sequence[Hypothesis[Tokens]]],
    other: Mapping[int, Sequence[Hypothesis[Tokens]]],
    optional_end: Optional[int] = None,
) -> Agreement[Tokens]:
    """Compares hypotheses by sentence and rank.

    Args:
        one, other: hypotheses of each sentence by its number, best first.
        optional_end: an id that does not count as a difference where it is the last of a hypothesis.
    """
    numbers = sorted({*one, *other})
    pairs = {number: (one.get(number, ()), other.get(number, ())) for number in numbers}

    def same(mine: Hypothesis[Tokens], theirs: Hypothesis[Tokens]) -> bool:
        return _without_end(mine.tokens, optional_end) == _without_end(theirs.tokens, optional_end)

    differing = [
        number
        for number, (mine, theirs) in pairs.items()
        if len(mine) != len(theirs) or not all(map(same, mine, theirs))
    ]
    gaps = [
        abs(mine.score - theirs.score)
        for hypotheses in pairs.values()
        for mine, theirs in zip(*hypotheses)
        if mine.score is not None and theirs.score is not None and same(mine, theirs)
    ]
    largest_gap = math.nan if any(map(math.isnan, gaps)) else max(gaps, default=0.0)
    return Agreement(len(numbers), differing, pairs[differing[0]] if differing else None, largest_gap)


def _without_end(tokens: Any, end: Optional[int]) -> Any:
    return tokens[:-1] if end is not None and tokens[-1:] == [end] else tokens
