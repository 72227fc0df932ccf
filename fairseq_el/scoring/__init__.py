"""Output of ``fairseq-generate``: read in the order of the data set, compared and scored."""

from fairseq_el.scoring.agreement import Agreement, Hypothesis, compare_hypotheses
from fairseq_el.scoring.generate_output import (
    FORMATS,
    GenerateOutput,
    is_generate_output,
    read_generate_output,
    read_hypotheses,
)
from fairseq_el.scoring.metrics import (
    METRICS,
    SPLITS,
    Score,
    as_words,
    score_bleu,
    score_chrf,
    score_rouge,
    warn_of_dropped_letters,
)

__all__ = [
    "FORMATS",
    "METRICS",
    "SPLITS",
    "Agreement",
    "GenerateOutput",
    "Hypothesis",
    "Score",
    "as_words",
    "compare_hypotheses",
    "is_generate_output",
    "read_generate_output",
    "read_hypotheses",
    "score_bleu",
    "score_chrf",
    "score_rouge",
    "warn_of_dropped_letters",
]
