"""Tasks that decode with EL-attention: fairseq's own, with another ``build_generator``."""

from fairseq_el.tasks.el_task import ELTask
from fairseq_el.tasks.el_translation import (
    ELTranslationFromPretrainedBARTTask,
    ELTranslationMultiSimpleEpochTask,
    ELTranslationTask,
)

__all__ = [
    "ELTask",
    "ELTranslationFromPretrainedBARTTask",
    "ELTranslationMultiSimpleEpochTask",
    "ELTranslationTask",
]
