"""Whether two programs wrote the same."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Dict, List, Optional, Sequence

from fairseq_el.scoring.generate_output import Hypothesis


@dataclass(frozen=True)
class Agreement:
    """What two runs of fairseq-generate over one data set have in common.

    Attributes:
        sentences: decoded by either.
        differing: sentences whose hypotheses are not the same words in the same order of rank.
        first: the first of them, with what either wrote: a pair of lists, best first.
        largest_gap: between the scores of one rank, where the words are the same (in base 2, as fairseq writes them).
    """

    sentences: int
    differing: List[int]
    first: Optional[Sequence[List[Hypothesis]]]
    largest_gap: float

    def as_dict(self) -> Dict[str, Any]:
        return asdict(self)


def compare_hypotheses(one: Dict[int, List[Hypothesis]], other: Dict[int, List[Hypothesis]]) -> Agreement:
    """Compares what :func:`read_hypotheses` gave."""
    numbers = sorted(set(one) | set(other))
    pairs = {number: (one.get(number, []), other.get(number, [])) for number in numbers}
    differing = [number for number, (mine, theirs) in pairs.items() if _words(mine) != _words(theirs)]
    gaps = [
        abs(mine.score - theirs.score)
        for hypotheses in pairs.values()
        for mine, theirs in zip(*hypotheses)
        if mine.tokens == theirs.tokens
    ]
    first = pairs[differing[0]] if differing else None
    return Agreement(len(numbers), differing, first, max(gaps, default=0.0))


def _words(hypotheses: List[Hypothesis]) -> List[str]:
    return [hypothesis.tokens for hypothesis in hypotheses]
