"""Tasks that decode with EL-attention: fairseq's own, with another ``build_generator``."""

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
