"""``--task el_language_modeling``: fairseq's language models, decoding with EL-attention."""

# No postponed annotations here: fairseq reads the types of the fields.
from dataclasses import dataclass, field
from typing import Any, Dict, List, Optional, Sequence, Tuple

import numpy as np
import torch
from fairseq.data import (
    AppendTokenDataset,
    IdDataset,
    ListDataset,
    NestedDictionaryDataset,
    NumelDataset,
    PadDataset,
    PrependTokenDataset,
)
from fairseq.tasks import register_task
from fairseq.tasks.language_modeling import LanguageModelingConfig, LanguageModelingTask
from torch import Tensor

from fairseq_el.errors import OptionError
from fairseq_el.generation import ELSequenceGenerator
from fairseq_el.tasks.el_options import ELOptions
from fairseq_el.tasks.el_task import ELTask


@dataclass
class ELLanguageModelingConfig(ELOptions, LanguageModelingConfig):
    """The options of ``language_modeling`` and those of EL-attention."""

    el_plain_prompts: bool = field(
        default=False,
        metadata={
            "help": "feed prompts as they are, as transformers does, without the </s> that fairseq puts in front"
        },
    )
    el_min_new_tokens: int = field(
        default=0, metadata={"help": "tokens that must follow each prompt before the eos, whatever the prompt's length"}
    )
    el_max_new_tokens: int = field(
        default=0,
        metadata={
            "help": "tokens that may follow each prompt, the eos included, in place of --max-len-a and --max-len-b, "
            "which count the prompt (0: not limited)"
        },
    )


class PlainPromptsTask(LanguageModelingTask):
    """fairseq's ``language_modeling``; with ``--el-plain-prompts`` it feeds prompts as transformers does.

    The first word that the decoder reads is then the prompt's. fairseq puts an eos in front.
    """

    def build_dataset_for_inference(
        self, src_tokens: Sequence[Tensor], src_lengths: Sequence[int], **kwargs: Any
    ) -> Any:
        """Makes the data set that stock makes, but keeps an eos that the user wrote; stock strips it."""
        if not getattr(self.args, "el_plain_prompts", False):
            return super().build_dataset_for_inference(src_tokens, src_lengths, **kwargs)
        eos, pad = self.source_dictionary.eos(), self.source_dictionary.pad()
        prompts = [tokens[:-1] if tokens.numel() and int(tokens[-1]) == eos else tokens for tokens in src_tokens]
        dataset = ListDataset(prompts, [tokens.numel() for tokens in prompts])
        source = PrependTokenDataset(dataset, eos)
        target = AppendTokenDataset(dataset, pad)
        return NestedDictionaryDataset(
            {
                "id": IdDataset(),
                "net_input": {
                    "src_tokens": PadDataset(source, pad_idx=pad, left_pad=False),
                    "src_lengths": NumelDataset(source, reduce=False),
                },
                "target": PadDataset(target, pad_idx=pad, left_pad=False),
            },
            sizes=[np.array(src_lengths)],
        )

    def inference_step(
        self,
        generator: Any,
        models: Sequence[Any],
        sample: Dict[str, Any],
        prefix_tokens: Optional[Tensor] = None,
        constraints: Optional[Tensor] = None,
    ) -> List[List[Dict[str, Any]]]:
        if not getattr(self.args, "el_plain_prompts", False) or constraints is not None:
            return super().inference_step(generator, models, sample, prefix_tokens, constraints)
        prompts = sample["net_input"]["src_tokens"][:, 1:] if prefix_tokens is None else prefix_tokens
        first, rest, is_word = split_first(prompts, self.source_dictionary.pad(), self.source_dictionary.eos())
        with torch.no_grad():
            found = generator.generate(models, sample, prefix_tokens=rest, bos_token=first)
        for hypotheses, word, has_words in zip(found, first, is_word.tolist()):
            for hypothesis in hypotheses if has_words else ():
                put_first(hypothesis, word)
        return found


@register_task("el_language_modeling", dataclass=ELLanguageModelingConfig)
class ELLanguageModelingTask(ELTask, PlainPromptsTask):
    """fairseq's ``language_modeling``; continuations read their prompt in one pass and keep it once for all beams."""

    takes_constraints = False
    continues_prompts = True

    def build_generator(self, models: Any, args: Any, *more: Any, **kwargs: Any) -> Any:
        """Builds a generator, with the limits of new tokens that the options give.

        Raises:
            OptionError: limits of new tokens are out of range.
        """
        generator = super().build_generator(models, args, *more, **kwargs)
        at_least, at_most = (getattr(self.args, f"el_{end}_new_tokens", 0) for end in ("min", "max"))
        if at_least < 0 or at_most < 0 or 0 < at_most <= at_least:
            raise OptionError(
                "--el-max-new-tokens must be more than --el-min-new-tokens (the eos counts), and both at least 0; "
                f"they are {at_most} and {at_least}"
            )
        if isinstance(generator, ELSequenceGenerator) and (at_least or at_most):
            generator.min_new_tokens, generator.max_new_tokens = at_least or None, at_most or None
        return generator


def split_first(prompts: Tensor, pad: int, eos: int) -> Tuple[Tensor, Tensor, Tensor]:
    """Splits prompts ``(B, p)``, padded at their ends, into their first words and the rest.

    Returns:
        First words ``(B)``, the eos for a prompt without words; the words after them, ``(B, p - 1)`` or ``(B, 0)``; and
        which prompts have words, ``(B)``, True where one has.
    """
    if prompts.size(1) == 0:
        prompts = prompts.new_full((prompts.size(0), 1), pad)
    first = prompts[:, 0]
    is_word = first.ne(pad)
    return first.masked_fill(~is_word, eos), prompts[:, 1:], is_word


def put_first(hypothesis: Dict[str, Any], word: Tensor) -> None:
    """Puts the word that the decoder began with in front of a hypothesis, where fairseq leaves it out."""
    hypothesis["tokens"] = torch.cat([word.view(1).to(hypothesis["tokens"]), hypothesis["tokens"]])
    scores = hypothesis["positional_scores"]
    hypothesis["positional_scores"] = torch.cat([scores.new_zeros(1), scores])
