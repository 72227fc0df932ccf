"""Prompts of language models as transformers feeds them: as they are, without an eos in front."""

from __future__ import annotations

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
from fairseq.tasks.language_modeling import LanguageModelingTask
from torch import Tensor


class PromptedTask(LanguageModelingTask):
    """fairseq's ``language_modeling``, where a prompt may be the model's first words (``--el-plain-prompts``)."""

    def build_dataset_for_inference(
        self, src_tokens: Sequence[Tensor], src_lengths: Sequence[int], **kwargs: Any
    ) -> Any:
        """As stock's, but an eos that the user wrote is part of the prompt; stock strips it."""
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


def split_first(prompts: Tensor, pad: int, eos: int) -> Tuple[Tensor, Tensor, Tensor]:
    """The first words of prompts ``(B, p)`` padded at their ends, the words after them, and which prompts have words.

    A prompt without words begins with the eos. *Shapes:* ``(B)``, ``(B, p - 1)`` or ``(B, 0)``, ``(B)``.
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
