"""The interface that the benchmark asks of a program."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, List, Optional, Sequence

from torch import Tensor

from fairseq_el.bench.programs.sources import Sources


@dataclass
class ScoredOutput:
    """The best output for a sentence.

    Attributes:
        tokens: ids in fairseq's dictionary, with the eos if the program wrote one.
        score: of the whole, divided by its length to the power of ``--lenpen``; None if the program does not tell.
        word_scores: logarithm of the probability of each token, as the program itself computes it; None if it does not
            tell.
    """

    tokens: List[int]
    score: Optional[float]
    word_scores: Optional[List[float]]


class Program(ABC):
    """A program with the model loaded. What is timed is :meth:`decode` alone, from ids to ids."""

    sources: Sources

    @abstractmethod
    def prepare(self, batches: Sequence[Sequence[Tensor]]) -> None:
        """Brings batches into the form that the program takes them in. Each source has *Shape:* ``(n)``."""

    @abstractmethod
    def decode(self, tgt_len: int) -> Any:
        """Decodes all batches. ``tgt_len``: words of every output, or 0 for outputs that end by themselves."""

    @abstractmethod
    def hypotheses(self, raw: Any, with_scores: bool) -> List[ScoredOutput]:
        """What :meth:`decode` returned, in the order of the batches."""
