"""SLiM Performers (Likhosherstov et al., NeurIPS 2021): linear attention, trained over slices of a sequence."""

from fairseq_el.slim.byte_language_modeling import ByteLanguageModelingTask
from fairseq_el.slim.copying import CopyingTask
from fairseq_el.slim.criterion import SlimCrossEntropyCriterion
from fairseq_el.slim.decoder import SlimDecoder
from fairseq_el.slim.loss import slim_cross_entropy
from fairseq_el.slim.model import SlimPerformerLanguageModel

__all__ = [
    "ByteLanguageModelingTask",
    "CopyingTask",
    "SlimCrossEntropyCriterion",
    "SlimDecoder",
    "SlimPerformerLanguageModel",
    "slim_cross_entropy",
]
