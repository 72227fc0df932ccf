"""Mixin that makes a fairseq task decode with EL-attention."""

from __future__ import annotations

import functools
import inspect
import logging
from typing import Any, Callable, List, Optional, Sequence

from torch import nn

from fairseq_el.cards.check import check_card_of
from fairseq_el.decoding import enable_el_attention, why_not_in_int8
from fairseq_el.dtypes import DTYPES, place_of, supported_dtype
from fairseq_el.errors import CheckpointMismatchError, OptionError, raise_problems
from fairseq_el.failure_report import report_failures_without_traceback
from fairseq_el.generation import ELSequenceGenerator, TransformersRules, build_el_generator
from fairseq_el.tasks.checkpoint_checks import Sizes, are_exchanged, check_dictionaries_on_load, check_kind
from fairseq_el.tasks.command_failures import explain_by_options
from fairseq_el.tasks.el_options import add_el_options, el_options, memory_budget, transformers_rules
from fairseq_el.tasks.option_checks import (
    CommandLine,
    command_problems,
    data_problems,
    data_warning,
    dictionary_problems,
    generation_problems,
    input_problems,
    shard_of,
)
from fairseq_el.tasks.whole_data import WholeData
from fairseq_el.topk import apply_topk

logger = logging.getLogger(__name__)


class ELTask(WholeData):
    """Mixin for tasks whose models are Transformers, with an encoder or without. Put it before the task:

    ::

        @register_task("el_my_task", dataclass=MyTaskConfig)
        class ELMyTask(ELTask, MyTask):
            pass

    Put :class:`ELOptions` before the configuration to have its options on the command line. Hypotheses have their
    attention weights only if ``--print-alignment`` asks for them.

    A checkpoint that can't be decoded exactly is refused with every reason; there is no silent fallback.

    Attributes:
        reads_a_checkpoint: whether the program reads one, as fairseq-generate does; fairseq-train and scripts do not.
        takes_constraints: whether the stock task has ``--constraints``.
        continues_prompts: whether the models are language models, whose output begins with the source.
        dictionary_hint: what to do where a checkpoint has other dictionaries than the data.
    """

    reads_a_checkpoint = False
    takes_constraints = True
    continues_prompts = False
    dictionary_hint = (
        "Run fairseq-preprocess again with the dictionaries the model was trained with: "
        "--srcdict dict.SRC.txt --tgtdict dict.TGT.txt"
    )

    @classmethod
    def add_args(cls, parser: Any) -> None:
        """Adds the task's options, and those of EL-attention if no dataclass of the task has them."""
        # Here already: fairseq looks at some options before it sets up the task.
        report_failures_without_traceback(explain_by_options)
        super().add_args(parser)  # type: ignore[misc]
        if getattr(cls, "__dataclass", None) is None:  # where fairseq keeps it
            add_el_options(parser)

    @classmethod
    def setup_task(cls, cfg: Any, **kwargs: Any) -> Any:
        """Sets up the task as stock does, after a check of the whole command line.

        Raises:
            OptionError: options of the command line can't be used; every problem is named.
        """
        report_failures_without_traceback(explain_by_options)
        command = CommandLine.of_task(cfg)
        if command.reads_a_checkpoint:
            raise_problems(cls.command_problems(command))
        warning = data_warning(command, getattr(cfg, "data", None))
        if warning:
            logger.warning(warning)
        task = super().setup_task(cfg, **kwargs)  # type: ignore[misc]
        task.reads_a_checkpoint = command.reads_a_checkpoint
        if command.reads_a_checkpoint:
            task.shard = shard_of(command)
            task._search_rules(functools.partial(command.get, "generation"))  # before the model is read
        return task

    @classmethod
    def command_problems(cls, command: CommandLine) -> List[str]:
        """Finds what is wrong with the command line of a program that reads a checkpoint."""
        return command_problems(command, cls.takes_constraints, cls.continues_prompts)

    def build_model(self, cfg: Any, from_checkpoint: bool = False) -> Any:
        if from_checkpoint:
            check_kind(cfg, self)
        try:
            model = _call_build_model(super().build_model, cfg, from_checkpoint)  # type: ignore[misc]
        except ValueError as error:
            if not from_checkpoint or "requires a joined dictionary" not in str(error):
                raise
            raise CheckpointMismatchError(
                f"The checkpoint's model can't be built for the dictionaries of the data ({self._sizes()}): {error}. "
                + self.dictionary_hint
            ) from error
        check_dictionaries_on_load(model, self, CommandLine.of_task(cfg))
        return apply_topk(model, self._el_config())

    def mismatch_advice(self, sizes: Sizes, saved: CommandLine) -> str:
        """Tells a user what to do where a checkpoint has other dictionaries than the data.

        Args:
            saved: the command line that the checkpoint was trained with.
        """
        if are_exchanged(sizes):
            languages = [_option(self._el_config(), name) for name in ("target_lang", "source_lang")]
            return "Source and target are exchanged: give -s {} -t {}".format(*languages)
        return self.dictionary_hint

    def build_generator(self, models: Sequence[nn.Module], args: Any, *more: Any, **kwargs: Any) -> Any:
        self._check_generation(args, (kwargs.get("extra_gen_cls_kwargs") or {}).get("lm_model"))
        options = el_options(self._el_config())
        for model in models:
            check_card_of(model)
        set_dtype(models, str(options.el_dtype))
        in_int8 = str(options.el_weights) == "int8"
        if in_int8:
            check_int8(models)
        enable_el_attention(models, backend=str(options.el_backend), self_attention=str(options.el_self_attention))
        build = super().build_generator  # type: ignore[misc]
        generator = build_el_generator(build, models, args, *more, **kwargs)
        if isinstance(generator, ELSequenceGenerator):
            generator.encoder_tokens = options.el_encoder_tokens
            generator.memory_budget = memory_budget(options)
            generator.int8_weights = in_int8
            generator.cuda_graphs = str(options.el_cuda_graphs)
            generator.ngram_blocking_as_stock = str(options.el_ngram_blocking) == "stock"
            generator.transformers_rules = self._search_rules(functools.partial(_option, args))
            generator.record_attention = bool(getattr(args, "print_alignment", None))
        return generator

    def _search_rules(self, option: Callable[..., Any]) -> Optional[TransformersRules]:
        words = self.target_dictionary  # type: ignore[attr-defined]
        size = 0 if words is None else len(words)
        return transformers_rules(el_options(self._el_config()), option, size, self.continues_prompts)

    def _check_generation(self, args: Any, lm_model: Any) -> None:
        """Checks the options that a generator is built with.

        Raises:
            OptionError: a generator can't be built with these options, or the data lack what they need.
        """
        option = functools.partial(_option, args)
        limits_new_tokens = bool(_option(self._el_config(), "el_max_new_tokens", 0))
        problems = generation_problems(option, limits_new_tokens) + data_problems(option, self.datasets.values())  # type: ignore[attr-defined]
        if self.reads_a_checkpoint and not self.datasets:  # type: ignore[attr-defined]
            problems += input_problems(option)
        if self.target_dictionary is not None:  # type: ignore[attr-defined]
            lm_words = None if lm_model is None else len(lm_model.decoder.dictionary)
            problems += dictionary_problems(option, len(self.target_dictionary), lm_words)  # type: ignore[attr-defined]
        raise_problems(problems)

    def _sizes(self) -> str:
        dictionaries = (self.source_dictionary, self.target_dictionary)  # type: ignore[attr-defined]
        return " and ".join("none" if words is None else str(len(words)) for words in dictionaries) + " words"

    def _el_config(self) -> Any:
        return getattr(self, "args", None) or getattr(self, "cfg", None)


def _call_build_model(build: Callable[..., Any], cfg: Any, from_checkpoint: bool) -> Any:
    """Calls a task's ``build_model``, which may be one that takes only the configuration, as fairseq allows."""
    parameters = inspect.signature(build).parameters.values()
    named = {parameter.name for parameter in parameters}
    takes_all = any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters)
    if takes_all or "from_checkpoint" in named:
        return build(cfg, from_checkpoint=from_checkpoint)
    return build(cfg)


def _option(options: Any, name: str, default: Any = None) -> Any:
    found = getattr(options, name, None)
    return default if found is None else found


def set_dtype(models: Sequence[nn.Module], name: str) -> None:
    """Converts models to a number format of ``DTYPES``, or to the closest one that their device has.

    Other names, as ``as-loaded``, change nothing. This is what ``--el-dtype`` does.
    """
    if name not in DTYPES:
        return
    for model in models:
        usable, reason = supported_dtype(name, place_of(model)[0].type)
        if reason:
            logger.info("--el-dtype %s: %s; %s is used", name, reason, usable)
        model.to(DTYPES[usable].torch_dtype)


def check_int8(models: Sequence[nn.Module]) -> None:
    """Checks that models can be computed with ``--el-weights int8``.

    Raises:
        OptionError: one can't.
    """
    for model in models:
        reason = why_not_in_int8(model)
        if reason:
            raise OptionError(f"--el-weights int8 can't be used: {reason}. Leave the option out.")
