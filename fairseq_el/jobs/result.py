"""The output for one line of input: hypotheses as text, with what else a format prints of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, List, Optional, Tuple


@dataclass(frozen=True)
class Hypothesis:
    """A hypothesis, with scores as fairseq's generators return them: natural logarithms, rounded to float32.

    Attributes:
        text: detokenised, as fairseq's lines ``D-`` have it.
        words: symbols of the dictionary, as fairseq's lines ``H-`` have them.
        score: by which hypotheses are compared.
        positional_scores: log-probability of each word, eos included.
        alignment: pairs of a position in the source and one in the hypothesis; None if it was not asked for.
    """

    text: str
    words: str
    score: float
    positional_scores: Tuple[float, ...]
    alignment: Optional[Tuple[Tuple[int, int], ...]] = None


@dataclass(frozen=True)
class Result:
    """The hypotheses of one line of input.

    Attributes:
        number: of the line, from 0.
        source: symbols of the dictionary, as fairseq's lines ``S-`` have them.
        hypotheses: the best first, as many as were asked for. An empty line has none, nor has one that failed.
        problem: why a line that is not empty has none; else empty.
    """

    number: int
    source: str
    hypotheses: Tuple[Hypothesis, ...]
    problem: str = ""

    def to_json(self) -> List[Any]:
        """Values that ``json`` writes; Python's floats come back exactly."""
        hypotheses = [[h.text, h.words, h.score, h.positional_scores, h.alignment] for h in self.hypotheses]
        return [self.number, self.source, hypotheses, self.problem]

    @classmethod
    def from_json(cls, values: List[Any]) -> Result:
        """The inverse of :meth:`to_json`."""
        number, source, hypotheses, problem = values
        return cls(number, source, tuple(_hypothesis(*of_one) for of_one in hypotheses), problem)


def _hypothesis(text: str, words: str, score: float, positional: List[float], alignment: Any) -> Hypothesis:
    pairs = None if alignment is None else tuple((i, j) for i, j in alignment)
    return Hypothesis(text, words, score, tuple(positional), pairs)
