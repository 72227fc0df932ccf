"""``--task el_translation`` and its relatives."""

from argparse import ArgumentParser
from dataclasses import dataclass
from typing import Any

from fairseq.tasks import register_task
from fairseq.tasks.translation import TranslationConfig, TranslationTask
from fairseq.tasks.translation_from_pretrained_bart import TranslationFromPretrainedBARTTask
from fairseq.tasks.translation_multi_simple_epoch import TranslationMultiSimpleEpochTask

from fairseq_el.tasks.el_task import ELTask
from fairseq_el.tasks.options import ELOptions, add_el_options


@dataclass
class ELTranslationConfig(ELOptions, TranslationConfig):
    """The options of ``translation`` and those of EL-attention."""


@register_task("el_translation", dataclass=ELTranslationConfig)
class ELTranslationTask(ELTask, TranslationTask):
    """fairseq's ``translation``, decoding with EL-attention."""


@register_task("el_translation_from_pretrained_bart")
class ELTranslationFromPretrainedBARTTask(ELTask, TranslationFromPretrainedBARTTask):
    """fairseq's ``translation_from_pretrained_bart`` (mBART), decoding with EL-attention."""

    @classmethod
    def add_args(cls, parser: ArgumentParser) -> None:
        super().add_args(parser)
        add_el_options(parser)

    def __init__(self, args: Any, src_dict: Any, tgt_dict: Any) -> None:
        super().__init__(args, src_dict, tgt_dict)
        self.args = args  # stock 0.12 reads it but no longer sets it


@register_task("el_translation_multi_simple_epoch")
class ELTranslationMultiSimpleEpochTask(ELTask, TranslationMultiSimpleEpochTask):
    """fairseq's ``translation_multi_simple_epoch``, decoding with EL-attention."""

    takes_constraints = False

    @classmethod
    def add_args(cls, parser: ArgumentParser) -> None:
        super().add_args(parser)
        add_el_options(parser)
