"""fairseq's tasks, decoding with EL-attention."""

from fairseq_el.tasks.command_failures import explain_by_options
from fairseq_el.tasks.el_options import ELOptions
from fairseq_el.tasks.el_task import ELTask
from fairseq_el.tasks.language_modeling import ELLanguageModelingConfig, ELLanguageModelingTask
from fairseq_el.tasks.multilingual_translation import ELMultilingualTranslationTask
from fairseq_el.tasks.speech_to_text import ELSpeechToTextTask
from fairseq_el.tasks.translation import (
    ELTranslationFromPretrainedBARTTask,
    ELTranslationMultiSimpleEpochTask,
    ELTranslationTask,
)
from fairseq_el.tasks.user_directory import el_task_for, import_user_directory, is_of_user

__all__ = [
    "ELLanguageModelingConfig",
    "ELLanguageModelingTask",
    "ELMultilingualTranslationTask",
    "ELOptions",
    "ELSpeechToTextTask",
    "ELTask",
    "ELTranslationFromPretrainedBARTTask",
    "ELTranslationMultiSimpleEpochTask",
    "ELTranslationTask",
    "el_task_for",
    "explain_by_options",
    "import_user_directory",
    "is_of_user",
]
