"""What ``fairseq-generate`` wrote, in the order of the data set, and what it is worth."""

from fairseq_el.scoring.agreement import Agreement, compare_hypotheses
from fairseq_el.scoring.generate_output import (
    GenerateOutput,
    Hypothesis,
    is_generate_output,
    read_generate_output,
    read_hypotheses,
)
from fairseq_el.scoring.metrics import METRICS, Score, SplitSentences, score_bleu, score_chrf, score_rouge
from fairseq_el.scoring.sentences import SPLITS

__all__ = [
    "METRICS",
    "SPLITS",
    "Agreement",
    "GenerateOutput",
    "Hypothesis",
    "Score",
    "SplitSentences",
    "compare_hypotheses",
    "is_generate_output",
    "read_generate_output",
    "read_hypotheses",
    "score_bleu",
    "score_chrf",
    "score_rouge",
]
