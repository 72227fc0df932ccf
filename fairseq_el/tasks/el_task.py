"""What makes a fairseq task decode with EL-attention."""

from __future__ import annotations

import logging
from typing import Any, List, Sequence

from torch import nn

from fairseq_el.errors import CheckpointMismatchError
from fairseq_el.failure_report import report_failures_without_traceback
from fairseq_el.generation import ELSequenceGenerator, el_generator
from fairseq_el.modules import apply_topk, enable_el_attention
from fairseq_el.planning.dtypes import TORCH_DTYPES, supported_dtype
from fairseq_el.tasks.options import el_options, memory_budget
from fairseq_el.tasks.out_of_memory import is_out_of_memory, out_of_memory
from fairseq_el.tasks.search_options import set_search

logger = logging.getLogger(__name__)


class ELTask:
    """Mixin: put it before any fairseq task whose models are Transformers, with an encoder or without.

    ::

        @register_task("el_my_task", dataclass=MyTaskConfig)
        class ELMyTask(ELTask, MyTask):
            pass

    Put :class:`ELOptions` before the configuration to have its options on the command line. Hypotheses have their
    attention weights only if ``--print-alignment`` asks for them.

    A checkpoint that can't be decoded exactly is refused with every reason; there is no silent fallback.

    Attributes:
        keeps_last_training_batch: fairseq 0.12.3 drops the last batch of an epoch if it is no multiple of
            ``--required-batch-size-multiple``. Training is as stock unless this is set.
        continues_prompts: whether the models are language models.
        dictionary_hint: what to do where a checkpoint has other dictionaries than the data.
    """

    keeps_last_training_batch = False
    continues_prompts = False
    dictionary_hint = (
        "Run fairseq-preprocess again with the dictionaries the model was trained with: "
        "--srcdict dict.SRC.txt --tgtdict dict.TGT.txt"
    )

    @classmethod
    def setup_task(cls, cfg: Any, **kwargs: Any) -> Any:
        report_failures_without_traceback()
        return super().setup_task(cfg, **kwargs)  # type: ignore[misc]

    def build_model(self, cfg: Any, from_checkpoint: bool = False) -> Any:
        try:
            model = super().build_model(cfg, from_checkpoint)  # type: ignore[misc]
        except ValueError as error:
            if not from_checkpoint or "requires a joined dictionary" not in str(error):
                raise
            raise CheckpointMismatchError(
                f"The checkpoint's model can't be built for the dictionaries of the data ({_sizes(self)}): {error}. "
                + self.dictionary_hint
            ) from error
        _check_dictionaries_on_load(model, self)
        return apply_topk(model, self._el_config())

    def get_batch_iterator(self, dataset: Any, *args: Any, required_batch_size_multiple: int = 1, **kwargs: Any) -> Any:
        """As stock, but outside of training no sentence is lost (see ``keeps_last_training_batch``)."""
        training_data = self.datasets.get(getattr(self._el_config(), "train_subset", "train"))  # type: ignore[attr-defined]
        if self.keeps_last_training_batch or dataset is not training_data:
            required_batch_size_multiple = 1
        return super().get_batch_iterator(  # type: ignore[misc]
            dataset, *args, required_batch_size_multiple=required_batch_size_multiple, **kwargs
        )

    def build_generator(self, models: Sequence[nn.Module], args: Any, *more: Any, **kwargs: Any) -> Any:
        options = el_options(self._el_config())
        set_dtype(models, str(options.el_dtype))
        enable_el_attention(models, backend=str(options.el_backend), self_attention=str(options.el_self_attention))
        generator = el_generator(super().build_generator(models, args, *more, **kwargs))  # type: ignore[misc]
        if isinstance(generator, ELSequenceGenerator):
            generator.encoder_tokens = options.el_encoder_tokens
            generator.memory_budget = memory_budget(options)
            generator.ngram_blocking_as_stock = str(options.el_ngram_blocking) == "stock"
            words = self.target_dictionary  # type: ignore[attr-defined]
            set_search(generator, options, args, len(words), self.continues_prompts)
            generator.record_attention = bool(getattr(args, "print_alignment", None))
        return generator

    def inference_step(
        self, generator: Any, models: Sequence[nn.Module], sample: Any, *more: Any, **kwargs: Any
    ) -> Any:
        try:
            return super().inference_step(generator, models, sample, *more, **kwargs)  # type: ignore[misc]
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error) or not isinstance(generator, ELSequenceGenerator):
                raise
            raise out_of_memory(models, sample, generator) from error

    def _el_config(self) -> Any:
        return getattr(self, "args", None) or getattr(self, "cfg", None)


def set_dtype(models: Sequence[nn.Module], name: str) -> None:
    """Converts models to a format in ``TORCH_DTYPES``, or to what comes closest on their device (``--el-dtype``)."""
    if name not in TORCH_DTYPES:  # as loaded
        return
    for model in models:
        usable, reason = supported_dtype(name, next(model.parameters()).device.type)
        if reason:
            logger.info("--el-dtype %s: %s; %s is used", name, reason, usable)
        model.to(TORCH_DTYPES[usable])


def _sizes(task: Any) -> str:
    dictionaries = (task.source_dictionary, task.target_dictionary)
    return " and ".join("none" if words is None else str(len(words)) for words in dictionaries) + " words"


def _check_dictionaries_on_load(model: nn.Module, task: Any) -> None:
    """Makes loading weights for other dictionaries fail with a message about dictionaries, not about tensor sizes."""

    def check(state_dict: Any, prefix: str, *unused: Any) -> None:
        problems: List[str] = []
        for side, dictionary in (("encoder", task.source_dictionary), ("decoder", task.target_dictionary)):
            weight = state_dict.get(f"{prefix}{side}.embed_tokens.weight")
            if weight is not None and dictionary is not None and weight.size(0) != len(dictionary):
                problems.append(f"  - {side}: {weight.size(0)} in the checkpoint, {len(dictionary)} in the data")
        if problems:
            raise CheckpointMismatchError(
                "The checkpoint and the data have dictionaries of different sizes (special symbols included):\n"
                + "\n".join(problems)
                + f"\n{task.dictionary_hint}"
            )

    model._register_load_state_dict_pre_hook(check)
