"""How far the outputs of two programs agree."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Dict, List, Mapping, Optional, Sequence

from fairseq_el.scoring.generate_output import Hypothesis


@dataclass(frozen=True)
class Agreement:
    """What the outputs of two programs for the same sentences have in common.

    Attributes:
        sentences: decoded by either.
        differing: sentences whose hypotheses are not the same words in the same order of rank.
        first: the first of them, with the hypotheses of either: a pair of lists, best first.
        largest_gap: between the scores of one rank, where the words are the same; NaN if one of the scores is NaN.
    """

    sentences: int
    differing: List[int]
    first: Optional[Sequence[Sequence[Hypothesis]]]
    largest_gap: float

    @property
    def num_identical(self) -> int:
        """Sentences with the same hypotheses."""
        return self.sentences - len(self.differing)

    def as_dict(self) -> Dict[str, Any]:
        return asdict(self)


def compare_hypotheses(one: Mapping[int, Sequence[Hypothesis]], other: Mapping[int, Sequence[Hypothesis]]) -> Agreement:
    """Compares hypotheses by the number of their sentence, best first, as :func:`read_hypotheses` gives them."""
    numbers = sorted(set(one) | set(other))
    pairs = {number: (one.get(number, []), other.get(number, [])) for number in numbers}
    differing = [number for number, (mine, theirs) in pairs.items() if _words(mine) != _words(theirs)]
    gaps = [
        abs(mine.score - theirs.score)
        for hypotheses in pairs.values()
        for mine, theirs in zip(*hypotheses)
        if mine.tokens == theirs.tokens
    ]
    largest = math.nan if any(map(math.isnan, gaps)) else max(gaps, default=0.0)
    return Agreement(len(numbers), differing, pairs[differing[0]] if differing else None, largest)


def _words(hypotheses: Sequence[Hypothesis]) -> List[str]:
    return [hypothesis.tokens for hypothesis in hypotheses]
