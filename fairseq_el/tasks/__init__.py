"""fairseq's tasks, decoding with EL-attention, and two that need no preprocessing."""

from fairseq_el.tasks.byte_language_modeling import ByteLanguageModelingTask
from fairseq_el.tasks.copying import CopyingTask
from fairseq_el.tasks.el_language_modeling import ELLanguageModelingTask
from fairseq_el.tasks.el_task import ELTask
from fairseq_el.tasks.el_translation import (
    ELTranslationFromPretrainedBARTTask,
    ELTranslationMultiSimpleEpochTask,
    ELTranslationTask,
)
from fairseq_el.tasks.options import ELOptions

__all__ = [
    "ByteLanguageModelingTask",
    "CopyingTask",
    "ELLanguageModelingTask",
    "ELOptions",
    "ELTask",
    "ELTranslationFromPretrainedBARTTask",
    "ELTranslationMultiSimpleEpochTask",
    "ELTranslationTask",
]
