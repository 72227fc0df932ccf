"""SLiM Performers (Likhosherstov et al., NeurIPS 2021): linear attention, trained over slices of a sequence."""

from fairseq_el.slim.criterion import SlimCrossEntropyCriterion, slim_cross_entropy
from fairseq_el.slim.decoder import SlimDecoder
from fairseq_el.slim.language_model import SlimPerformerLanguageModel
from fairseq_el.slim.tasks import ByteLanguageModelingTask, CopyingTask

__all__ = [
    "ByteLanguageModelingTask",
    "CopyingTask",
    "SlimCrossEntropyCriterion",
    "SlimDecoder",
    "SlimPerformerLanguageModel",
    "slim_cross_entropy",
]
