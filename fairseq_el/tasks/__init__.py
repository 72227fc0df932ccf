"""fairseq's tasks, decoding with EL-attention."""

from fairseq_el.tasks.command_failures import explain_by_options
from fairseq_el.tasks.el_options import ELOptions
from fairseq_el.tasks.el_task import ELTask
from fairseq_el.tasks.language_modeling import ELLanguageModelingConfig, ELLanguageModelingTask
from fairseq_el.tasks.multilingual_translation import ELMultilingualTranslationTask
from fairseq_el.tasks.translation import (
    ELTranslationFromPretrainedBARTTask,
    ELTranslationMultiSimpleEpochTask,
    ELTranslationTask,
)

__all__ = [
    "ELLanguageModelingConfig",
    "ELLanguageModelingTask",
    "ELMultilingualTranslationTask",
    "ELOptions",
    "ELTask",
    "ELTranslationFromPretrainedBARTTask",
    "ELTranslationMultiSimpleEpochTask",
    "ELTranslationTask",
    "explain_by_options",
]
