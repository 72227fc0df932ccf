"""``--task el_translation`` and its relatives."""

from argparse import ArgumentParser
from dataclasses import dataclass
from typing import Any

from fairseq.data.multilingual.multilingual_utils import get_lang_tok
from fairseq.tasks import register_task
from fairseq.tasks.translation import TranslationConfig, TranslationTask
from fairseq.tasks.translation_from_pretrained_bart import TranslationFromPretrainedBARTTask
from fairseq.tasks.translation_multi_simple_epoch import TranslationMultiSimpleEpochTask

from fairseq_el.tasks.checkpoint_fit import Languages, Sizes, are_exchanged
from fairseq_el.tasks.command import Command
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
        self._languages = Languages("--langs", self.langs, [f"[{language}]" for language in self.langs], others=1)

    def mismatch_advice(self, sizes: Sizes, saved: Command) -> str:
        if are_exchanged(sizes):
            return super().mismatch_advice(sizes, saved)
        return self._languages.advice(sizes, saved.get("task", "langs"), self.source_dictionary, self.dictionary_hint)

    def build_model(self, cfg: Any, from_checkpoint: bool = False) -> Any:
        self._languages.warn_of_another_order(Command.of_task(cfg).get("task", "langs"))
        return super().build_model(cfg, from_checkpoint)


@register_task("el_translation_multi_simple_epoch")
class ELTranslationMultiSimpleEpochTask(ELTask, TranslationMultiSimpleEpochTask):
    """fairseq's ``translation_multi_simple_epoch``, decoding with EL-attention."""

    takes_constraints = False

    def mismatch_advice(self, sizes: Sizes, saved: Command) -> str:
        if are_exchanged(sizes):
            return super().mismatch_advice(sizes, saved)
        return self._languages().advice(
            sizes, saved.get("task", "langs"), self.source_dictionary, self._dictionary_advice()
        )

    def build_model(self, cfg: Any, from_checkpoint: bool = False) -> Any:
        self._languages().warn_of_another_order(Command.of_task(cfg).get("task", "langs"))
        return super().build_model(cfg, from_checkpoint)

    def _languages(self) -> Languages:
        args = self.args
        option = "--lang-dict" if args.lang_dict else "--langs" if args.langs else "--lang-pairs"
        symbols = [
            get_lang_tok(language, args.lang_tok_style, spec) for spec in args.langtoks_specs for language in self.langs
        ]
        return Languages(option, self.langs, symbols, others=int("<mask>" in self.source_dictionary))

    def _dictionary_advice(self) -> str:
        """Which dictionary is not the model's."""
        named = [
            f"--{name.replace('_', '-')} {getattr(self.args, name)}"
            for name in ("fixed_dictionary", "source_dict", "target_dict")
            if getattr(self.args, name, None)
        ]
        if named:
            return f"{' and '.join(named)} must be the model's own dictionary (model_dict.128k.txt of M2M-100)"
        return f"{self.dictionary_hint}; or name the model's own with --fixed-dictionary FILE"

    @classmethod
    def add_args(cls, parser: ArgumentParser) -> None:
        super().add_args(parser)
        add_el_options(parser)
