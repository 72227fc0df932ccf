"""fairseq's tasks, decoding with EL-attention."""

from fairseq_el.tasks.el_language_modeling import ELLanguageModelingTask
from fairseq_el.tasks.el_task import ELTask
from fairseq_el.tasks.el_translation import (
    ELTranslationFromPretrainedBARTTask,
    ELTranslationMultiSimpleEpochTask,
    ELTranslationTask,
)
from fairseq_el.tasks.options import ELOptions

__all__ = [
    "ELLanguageModelingTask",
    "ELOptions",
    "ELTask",
    "ELTranslationFromPretrainedBARTTask",
    "ELTranslationMultiSimpleEpochTask",
    "ELTranslationTask",
]
