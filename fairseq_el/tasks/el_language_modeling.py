"""``--task el_language_modeling``."""

from dataclasses import dataclass

from fairseq.tasks import register_task
from fairseq.tasks.language_modeling import LanguageModelingConfig, LanguageModelingTask

from fairseq_el.tasks.el_task import ELTask
from fairseq_el.tasks.options import ELOptions


@dataclass
class ELLanguageModelingConfig(ELOptions, LanguageModelingConfig):
    """The options of ``language_modeling`` and those of EL-attention."""


@register_task("el_language_modeling", dataclass=ELLanguageModelingConfig)
class ELLanguageModelingTask(ELTask, LanguageModelingTask):
    """fairseq's ``language_modeling``; continuations read their prompt in one pass and keep it once for all beams."""

    takes_constraints = False
    continues_source = True
