"""Hugging Face transformers with the weights of a fairseq BART checkpoint."""

from __future__ import annotations

from typing import Any, Dict, List, Sequence

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from fairseq_el.bench.methods import STOCK, Method, optional_module
from fairseq_el.bench.programs.base import Program, ScoredOutput, forced_scores
from fairseq_el.bench.programs.fairseq import FairseqProgram
from fairseq_el.bench.settings import Settings
from fairseq_el.conversion.hf import bart_to_hf
from fairseq_el.dtypes import DTYPES
from fairseq_el.errors import FairseqElError


def bart_of(model: Any, dtype: torch.dtype) -> Any:
    """``BartForConditionalGeneration`` with the weights of a fairseq BART model, which it shares where it can.

    Raises:
        FairseqElError: Hugging Face's BART can't compute the same; every reason is listed.
    """
    transformers = optional_module("transformers")
    try:
        config, state = bart_to_hf(model, dtype)
    except FairseqElError as error:
        raise FairseqElError(f"hf: {error}") from error
    with torch.device("meta"):
        converted = transformers.BartForConditionalGeneration(transformers.BartConfig(**config))
    converted.load_state_dict(state, assign=True)
    converted.tie_weights()
    return converted.eval()


class FairseqRules:
    """Adds two rules of fairseq's search: padding is not a word, and the longest output ends with an eos.

    Hugging Face cuts the longest outputs off, or forces an eos and gives it the score 0; fairseq gives it its own.
    Beam search gets log-probabilities here, so taking words away leaves the scores of the others as they are.
    """

    def __init__(self, pad: int, eos: int, longest: int):
        self.pad, self.eos, self.longest = pad, eos, longest

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        scores[:, self.pad] = float("-inf")
        if input_ids.size(1) > self.longest:  # the decoder's first symbol is counted
            scores[:, : self.eos] = float("-inf")
            scores[:, self.eos + 1 :] = float("-inf")
        return scores


class HuggingFaceProgram(Program):
    """Method ``hf``. Sources are padded on the right: its positions count from the left, padding included."""

    def __init__(self, settings: Settings, method: Method):
        self._transformers = optional_module("transformers")
        stock = FairseqProgram(settings, STOCK)
        self.settings, self.sources = settings, stock.sources
        self._model = bart_of(stock.model, DTYPES[method.dtype].torch_dtype).to(settings.device)
        self._batches: List[Dict[str, Tensor]] = []

    def prepare(self, batches: Sequence[Sequence[Tensor]]) -> None:
        pad = self.sources.pad
        self._batches = []
        for batch in batches:
            ids = pad_sequence(list(batch), batch_first=True, padding_value=pad).to(self.settings.device)
            self._batches.append({"input_ids": ids, "attention_mask": ids.ne(pad).long()})

    def decode(self, tgt_len: int) -> Any:
        longest = tgt_len or self.settings.natural_length
        options = self._options(tgt_len or 1, longest)
        rules = self._transformers.LogitsProcessorList([FairseqRules(self.sources.pad, self.sources.eos, longest)])
        with torch.no_grad():
            return [
                self._model.generate(**batch, generation_config=options, logits_processor=rules)
                for batch in self._batches
            ]

    def _options(self, shortest: int, longest: int) -> Any:
        eos = self.sources.eos
        return self._transformers.GenerationConfig(
            num_beams=self.settings.beam,
            do_sample=False,
            early_stopping=True,
            min_new_tokens=shortest,
            max_new_tokens=longest + 1,  # the eos
            no_repeat_ngram_size=self.settings.no_repeat_ngram_size,
            length_penalty=self.settings.lenpen,
            decoder_start_token_id=eos,
            bos_token_id=self._model.config.bos_token_id,
            eos_token_id=eos,
            pad_token_id=self.sources.pad,
        )

    def hypotheses(self, raw: Any, with_scores: bool) -> List[ScoredOutput]:
        """Scores are made here, by reading the outputs: ``generate`` keeps those of the whole vocabulary, or none."""
        result = []
        for batch, sequences in zip(self._batches, raw):
            for source, sequence in zip(batch["input_ids"], sequences):
                tokens = sequence[1:].tolist()
                if self.sources.eos in tokens:
                    tokens = tokens[: tokens.index(self.sources.eos) + 1]
                scores = self._scores(source[source.ne(self.sources.pad)], tokens) if with_scores else None
                whole = None if scores is None else sum(scores) / len(tokens) ** self.settings.lenpen
                result.append(ScoredOutput(tokens, whole, scores))
        return result

    def _scores(self, source: Tensor, tokens: List[int]) -> List[float]:
        def logits(previous: Tensor) -> Tensor:
            output: Tensor = self._model(input_ids=source.unsqueeze(0), decoder_input_ids=previous).logits
            return output

        return forced_scores(logits, tokens, self.sources.eos, source.device)
