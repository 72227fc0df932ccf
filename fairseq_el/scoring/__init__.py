"""What ``fairseq-generate`` wrote, in the order of the data set, and what it is worth."""

from fairseq_el.scoring.agreement import Agreement, Hypothesis, compare_hypotheses
from fairseq_el.scoring.formats import FORMATS, is_generate_output
from fairseq_el.scoring.generate_output import GenerateOutput, read_generate_output, read_hypotheses
from fairseq_el.scoring.metrics import METRICS, Score, SplitSentences, score_bleu, score_chrf, score_rouge
from fairseq_el.scoring.rouge_letters import warn_of_dropped_letters
from fairseq_el.scoring.sentences import SPLITS, as_words

__all__ = [
    "FORMATS",
    "METRICS",
    "SPLITS",
    "Agreement",
    "GenerateOutput",
    "Hypothesis",
    "Score",
    "SplitSentences",
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
