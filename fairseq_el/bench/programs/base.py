"""The interface that the benchmark asks of a program."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, List, Sequence

from torch import Tensor

from fairseq_el.bench.programs.sources import Sources
from fairseq_el.scoring import Hypothesis

ScoredOutput = Hypothesis[List[int]]  # the best output for a sentence, in ids of fairseq's dictionary


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
        """The best outputs among those that :meth:`decode` returned, in the order of the batches."""
