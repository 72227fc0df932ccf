"""fairseq's sequence generators for EL models, stock models, and ensembles of both."""

from __future__ import annotations

import functools
from typing import Any, Callable, Dict, List, Optional, Sequence, Union

import torch
from fairseq.ngram_repeat_block import NGramRepeatBlock
from fairseq.search import BeamSearch, DiverseBeamSearch
from fairseq.sequence_generator import SequenceGenerator, SequenceGeneratorWithAlignment
from torch import Tensor, nn

from fairseq_el.cards.check import check_input
from fairseq_el.decoding import DecodeState, Linears, backend_of, is_el_model, is_inference_only
from fairseq_el.errors import FairseqElError, NoHypothesisError
from fairseq_el.generation.backend_choice import choose_for_batch
from fairseq_el.generation.batch import WholeBatch, source_in
from fairseq_el.generation.beams import Hypotheses
from fairseq_el.generation.halves import MemoryRecord, decode_in_halves
from fairseq_el.generation.no_hypothesis import found_no_word, why
from fairseq_el.generation.out_of_memory import free_frames
from fairseq_el.generation.random_state import RandomState
from fairseq_el.generation.transformers_search import TransformersRules, decoding_class
from fairseq_el.ops import block_repeated_ngrams
from fairseq_el.policy import output_rows_at_once

DEFAULT_ENCODER_TOKENS = 2048
MANY_STEPS = 10_000  # of all batches that are still to come


class ELSequenceGenerator(SequenceGenerator):
    """fairseq's :class:`~fairseq.sequence_generator.SequenceGenerator`: same constructor, inputs and outputs.

    It decodes EL models, other fairseq models, and ensembles of both, with every search strategy. With EL models

    - words forced by ``prefix_tokens`` are read in one pass, once for all beams;
    - the encoder, prompts and the output projection run over parts of a large batch, so that what they compute in
      between takes little memory. Results do not depend on it.

    A batch that does not fit into memory is decoded in halves, and these in halves, with the same hypotheses and one
    warning that names the batch size to use (:mod:`fairseq_el.generation.halves`).

    Where stock goes wrong it does not:

    - the beam size is set in models that keep it (stock BART) before every batch, for beam size 1 too, so one model
      object can serve generators of different beam sizes;
    - diverse beam search works on every batch: stock 0.12.3 indexes a buffer of the batch by the sentences' numbers in
      the whole data set and ends in an IndexError where these exceed the batch's size; here they count from 0 then;
    - ``--no-repeat-ngram-size`` forbids repeated n-grams on every device. Stock 0.12 compares with the end of a padded
      buffer unless its CUDA extension is built, and so forbids nothing (:attr:`ngram_blocking_as_stock` does the same);
    - every hypothesis says in ``"steps"`` after how many steps it ended, so that ``--print-step`` works.

    Attributes:
        encoder_tokens: positions that the encoder (or a prompt's pass) has in flight at a time.
        record_attention: whether hypotheses get their encoder-decoder attention, as in stock. It takes
            ``B * b * n * t`` numbers, as much as all else for long inputs.
        memory_budget: bytes that cross-attention may keep of the source where the backend is ``"auto"`` (default: half
            of the memory that is free).
        ngram_blocking_as_stock: leave n-grams to stock's code, which without its CUDA extension forbids none.
        transformers_rules: search as transformers' ``generate()`` does, if the strategy is plain beam search.
        first_symbol: that hypotheses begin with, if it is not the eos that ends them.
        min_new_tokens, max_new_tokens: how many words must and may follow a prompt, the eos included; None where
            ``min_len`` and ``max_len`` alone hold, which count the prompt.
        on_step: called after every step with its number and the decode states of the models, for measurements.
    """

    encoder_tokens: int = DEFAULT_ENCODER_TOKENS
    record_attention: bool = True
    memory_budget: Optional[int] = None
    ngram_blocking_as_stock: bool = False
    transformers_rules: Optional[TransformersRules] = None
    first_symbol: Optional[int] = None
    min_new_tokens: Optional[int] = None
    max_new_tokens: Optional[int] = None
    on_step: Optional[Callable[[int, List[DecodeState]], None]] = None

    def _generate(
        self,
        sample: Dict[str, Any],
        prefix_tokens: Optional[Tensor] = None,
        constraints: Optional[Tensor] = None,
        bos_token: Union[int, Tensor, None] = None,
    ) -> Hypotheses:
        check_input(sample["net_input"])
        options = {"prefix_tokens": prefix_tokens, "constraints": constraints, "bos_token": bos_token}
        return decode_in_halves(self, self._decode, sample, options)

    def _decode(
        self,
        sample: Dict[str, Any],
        prefix_tokens: Optional[Tensor],
        constraints: Optional[Tensor],
        bos_token: Union[int, Tensor, None],
    ) -> Hypotheses:
        """All sentences together."""
        for model in self.model.models:
            if hasattr(model, "set_beam_size"):
                model.set_beam_size(self.beam_size)
        numbers = sample.get("id")
        if isinstance(self.search, DiverseBeamSearch):
            sample = _number_within_batch(sample)
        batch = (sample, prefix_tokens, constraints, self.first_symbol if bos_token is None else bos_token)
        random_state = RandomState(source_in(sample).device)
        try:
            return decoding_class(self)(self, *batch).run()
        except (AssertionError, RuntimeError) as error:
            if not found_no_word(error):
                raise
            free_frames(error)
            random_state.restore()
            raise NoHypothesisError(why(self, batch, error, numbers)) from error

    @property
    def searches_as_transformers(self) -> bool:
        return self.transformers_rules is not None and type(self.search) is BeamSearch

    @property
    def memory_record(self) -> MemoryRecord:
        """What has not fitted into memory so far."""
        return self.__dict__.setdefault("_memory_record", MemoryRecord())

    def new_state(self, model: Any, num_sentences: int, src_len: int, max_steps: int) -> DecodeState:
        """What the beams of a batch share while an EL model decodes it."""
        backend = backend_of(model)
        if backend == "auto":
            steps = (self.min_len, max_steps - 1)
            backend = choose_for_batch(model, num_sentences, self.beam_size, src_len, steps, self.memory_budget)
        linears = self.linears_for(model, num_sentences, max_steps)
        return DecodeState(num_sentences, self.beam_size, max_steps, backend, linears)

    def linears_for(self, model: Any, num_sentences: int, max_steps: int) -> Linears:
        """How a model's linear layers are computed; kept from batch to batch if the model can't change any more."""
        if not is_inference_only(model):
            return Linears(num_sentences * self.beam_size, max_steps)
        linears = self.__dict__.setdefault("_kept_linears", {}).setdefault(id(model), Linears(0))
        linears.num_rows, linears.num_uses = num_sentences * self.beam_size, MANY_STEPS
        return linears

    def __prepare_scriptable__(self) -> SequenceGenerator:
        """What ``torch.jit.script`` compiles instead: stock's generator with these settings.

        Raises:
            FairseqElError: a model decodes with EL-attention, which TorchScript can't compile.
        """
        enabled = [type(model).__name__ for model in self.model.models if is_el_model(model)]
        if enabled:
            raise FairseqElError(
                f"TorchScript can't compile EL-attention, which is enabled in {', '.join(enabled)}. Call "
                "fairseq_el.disable_el_attention(model) first: stock attention and stock's search are compiled then."
            )
        stock = next(known for known, el_class in _EL_CLASSES.items() if isinstance(self, el_class))
        return _with_settings_of(self, stock)

    def output_rows(self, width: int) -> int:
        """Rows of the output projection to have in flight. ``width``: ``d`` of the decoder."""
        return output_rows_at_once(self.encoder_tokens, width, self.vocab_size)

    def adjusted(self, log_probs: Tensor) -> Tensor:
        """``log_probs`` ``(rows, V)`` under the rules that are the same in every step: NaN, padding, ``--unkpen``."""
        return self.penalized(self.without_nan(log_probs))

    @staticmethod
    def without_nan(log_probs: Tensor) -> Tensor:
        """NaN counts as minus infinity; changed in place."""
        return log_probs.masked_fill_(log_probs.isnan(), float("-inf"))

    def penalized(self, scores: Tensor) -> Tensor:
        """The same, NaN left as they are. ``scores``: ``(rows, V)``, changed in place."""
        scores[:, self.pad] = float("-inf")
        scores[:, self.unk] -= self.unk_penalty
        return scores

    def block_ngrams(self, scores: Tensor, tokens: Tensor, step: int) -> None:
        """``--no-repeat-ngram-size``.

        Args:
            scores: of the next word, changed in place. *Shape:* ``(rows, V)``.
            tokens: words so far, padded. *Shape:* ``(rows, max_len + 2)``.
        """
        blocker = self.repeat_ngram_blocker
        if blocker is None:
            return
        if type(blocker) is NGramRepeatBlock and not self.ngram_blocking_as_stock:
            block_repeated_ngrams(scores, tokens[:, : step + 1], blocker.no_repeat_ngram_size)
        else:
            blocker(tokens, scores, tokens.size(0) // self.beam_size, self.beam_size, step)

    def language_model_log_probs(self, tokens: Tensor) -> Tensor:
        """What ``lm_model`` adds to the log-probabilities of the word after ``tokens`` ``(rows, t)``: ``(rows, V)``."""
        assert self.lm_model is not None
        log_probs = self.lm_model.get_normalized_probs(self.lm_model(tokens), log_probs=True, sample=None)
        return log_probs[:, -1, :] * self.lm_weight


class ELSequenceGeneratorWithAlignment(SequenceGeneratorWithAlignment, ELSequenceGenerator):
    """The same for :class:`~fairseq.sequence_generator.SequenceGeneratorWithAlignment` (``--print-alignment``)."""

    def generate(self, models: Sequence[nn.Module], sample: Dict[str, Any], **options: Any) -> Hypotheses:
        """As stock: decodes, then aligns, which takes memory of its own."""
        return decode_in_halves(self, functools.partial(super().generate, models), sample, options)


def _number_within_batch(sample: Dict[str, Any]) -> Dict[str, Any]:
    """The sample with sentences numbered from 0, if it is a part of a batch or has numbers beyond its size."""
    ids = sample.get("id")
    if ids is None or ids.numel() == 0 or (WholeBatch.of_part(sample) is None and int(ids.max()) < ids.numel()):
        return sample
    return {**sample, "id": torch.arange(ids.numel(), device=ids.device)}


_EL_CLASSES = {
    SequenceGenerator: ELSequenceGenerator,
    SequenceGeneratorWithAlignment: ELSequenceGeneratorWithAlignment,
}


def el_generator(generator: Any) -> Any:
    """The EL generator with the settings of a stock one, for tasks that build their generator themselves.

    Args:
        generator: what a task's ``build_generator`` returned. A generator that is not one of fairseq's two sequence
            generators (a scorer, or a class of the user's own) is returned as it is; EL models work in it too.
    """
    el_class = _EL_CLASSES.get(type(generator))
    if el_class is None:
        return generator
    return _with_settings_of(generator, el_class)


def _with_settings_of(generator: Any, known: Any) -> Any:
    """A generator of class ``known`` with the models and settings of another."""
    converted = known.__new__(known)
    nn.Module.__init__(converted)
    converted.__dict__.update(generator.__dict__)
    return converted
