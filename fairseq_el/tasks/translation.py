"""``--task el_translation`` and the tasks of multilingual models, decoding with EL-attention."""

# No postponed annotations here: fairseq reads the types of the fields.
from dataclasses import dataclass, field
from typing import Any, Sequence

from fairseq.data.multilingual.multilingual_utils import get_lang_tok
from fairseq.tasks import register_task
from fairseq.tasks.translation import TranslationConfig, TranslationTask
from fairseq.tasks.translation_from_pretrained_bart import TranslationFromPretrainedBARTTask
from fairseq.tasks.translation_multi_simple_epoch import TranslationMultiSimpleEpochTask

from fairseq_el.errors import OptionError
from fairseq_el.generation import ELSequenceGenerator
from fairseq_el.tasks.checkpoint_checks import Languages, Sizes, are_exchanged
from fairseq_el.tasks.el_options import ELOptions
from fairseq_el.tasks.el_task import ELTask
from fairseq_el.tasks.option_checks import CommandLine
from fairseq_el.tasks.source_template import put_around_sources, source_template


@dataclass
class ELTranslationConfig(ELOptions, TranslationConfig):
    """The options of ``translation`` and those of EL-attention."""

    el_source_template: str = field(
        default="",
        metadata={
            "help": "what the model reads of a source: the text X among numbers of the dictionary's symbols. 0,X,2 is "
            "<s>, the text, </s>, as transformers feeds BART; fairseq's own is X,2 (default)"
        },
    )


@register_task("el_translation", dataclass=ELTranslationConfig)
class ELTranslationTask(ELTask, TranslationTask):
    """fairseq's ``translation``, decoding with EL-attention."""

    def __init__(self, cfg: Any, src_dict: Any, tgt_dict: Any) -> None:
        super().__init__(cfg, src_dict, tgt_dict)
        self._template = source_template(str(getattr(cfg, "el_source_template", "")), len(src_dict), src_dict.eos())
        if self._template is not None and cfg.num_batch_buckets > 0:
            raise OptionError("--el-source-template does not go with --num-batch-buckets; leave one of them out")

    def load_dataset(self, split: str, epoch: int = 1, combine: bool = False, **kwargs: Any) -> None:
        super().load_dataset(split, epoch, combine, **kwargs)
        if self._template is not None:
            longest = self.cfg.max_source_positions if self.cfg.truncate_source else None
            put_around_sources(self.datasets[split], self._template, longest)

    def build_dataset_for_inference(
        self, src_tokens: Sequence[Any], src_lengths: Sequence[int], constraints: Any = None
    ) -> Any:
        if self._template is not None:
            src_tokens = [self._template.apply(tokens) for tokens in src_tokens]
            src_lengths = [tokens.numel() for tokens in src_tokens]
        return super().build_dataset_for_inference(src_tokens, src_lengths, constraints=constraints)


@register_task("el_translation_from_pretrained_bart")
class ELTranslationFromPretrainedBARTTask(ELTask, TranslationFromPretrainedBARTTask):
    """fairseq's ``translation_from_pretrained_bart`` (mBART), decoding with EL-attention."""

    def __init__(self, args: Any, src_dict: Any, tgt_dict: Any) -> None:
        super().__init__(args, src_dict, tgt_dict)
        self.args = args  # stock 0.12 reads it but no longer sets it
        self._languages = Languages("--langs", self.langs, [f"[{language}]" for language in self.langs], others=1)

    def mismatch_advice(self, sizes: Sizes, saved: CommandLine) -> str:
        if are_exchanged(sizes):
            return super().mismatch_advice(sizes, saved)
        return self._languages.advice(sizes, saved.get("task", "langs"), self.source_dictionary, self.dictionary_hint)

    def build_model(self, cfg: Any, from_checkpoint: bool = False) -> Any:
        self._languages.warn_of_another_order(CommandLine.of_task(cfg).get("task", "langs"))
        return super().build_model(cfg, from_checkpoint)

    def build_generator(self, models: Any, args: Any, *more: Any, **kwargs: Any) -> Any:
        """Builds a generator. Hypotheses end with the language, or with ``</s>`` if the search is transformers'."""
        generator = super().build_generator(models, args, *more, **kwargs)
        if isinstance(generator, ELSequenceGenerator) and generator.transformers_rules is not None:
            generator.first_symbol = generator.eos
            generator.eos = self.target_dictionary.eos()
        return generator


@register_task("el_translation_multi_simple_epoch")
class ELTranslationMultiSimpleEpochTask(ELTask, TranslationMultiSimpleEpochTask):
    """fairseq's ``translation_multi_simple_epoch``, decoding with EL-attention."""

    takes_constraints = False

    def mismatch_advice(self, sizes: Sizes, saved: CommandLine) -> str:
        if are_exchanged(sizes):
            return super().mismatch_advice(sizes, saved)
        return self._languages().advice(
            sizes, saved.get("task", "langs"), self.source_dictionary, self._dictionary_advice()
        )

    def build_model(self, cfg: Any, from_checkpoint: bool = False) -> Any:
        self._languages().warn_of_another_order(CommandLine.of_task(cfg).get("task", "langs"))
        return super().build_model(cfg, from_checkpoint)

    def _languages(self) -> Languages:
        args = self.args
        option = "--lang-dict" if args.lang_dict else "--langs" if args.langs else "--lang-pairs"
        symbols = [
            get_lang_tok(language, args.lang_tok_style, spec) for spec in args.langtoks_specs for language in self.langs
        ]
        return Languages(option, self.langs, symbols, others=int("<mask>" in self.source_dictionary))

    def _dictionary_advice(self) -> str:
        """Names the dictionary that is not the model's."""
        named = [
            f"--{name.replace('_', '-')} {getattr(self.args, name)}"
            for name in ("fixed_dictionary", "source_dict", "target_dict")
            if getattr(self.args, name, None)
        ]
        if named:
            return f"{' and '.join(named)} must be the model's own dictionary (model_dict.128k.txt of M2M-100)"
        return f"{self.dictionary_hint}; or name the model's own with --fixed-dictionary FILE"
