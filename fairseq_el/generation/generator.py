"""fairseq's sequence generators for EL models, stock models, and ensembles of both."""

from __future__ import annotations

import copy
import functools
import inspect
from dataclasses import replace
from typing import Any, Callable, Dict, Optional, Sequence, Tuple, Union

import torch
from fairseq.search import DiverseBeamSearch
from fairseq.sequence_generator import SequenceGenerator, SequenceGeneratorWithAlignment
from torch import Tensor, nn

from fairseq_el.cards.check import check_input
from fairseq_el.decoding import DecodeState, Linears, backend_of, encoded_length, is_el_model, is_inference_only
from fairseq_el.errors import FairseqElError, NoHypothesisError
from fairseq_el.generation.alone import decode_alone
from fairseq_el.generation.backend_choice import choose_for_batch
from fairseq_el.generation.batch import ActiveBatch, WholeBatch, source_in
from fairseq_el.generation.choice import choose_search
from fairseq_el.generation.ensemble import EnsembleDecoder, OnBatch, OnStep
from fairseq_el.generation.failures.halves import MemoryRecord, decode_in_halves
from fairseq_el.generation.failures.no_hypothesis import explain, found_no_word
from fairseq_el.generation.failures.out_of_memory import free_frames
from fairseq_el.generation.hypotheses import Hypotheses
from fairseq_el.generation.ngram_extension import stock_blocker, unprobed_blocker
from fairseq_el.generation.random_numbers import RandomState
from fairseq_el.generation.rules import SearchRules, TransformersRules
from fairseq_el.generation.static_search import uses_graphs

DEFAULT_ENCODER_TOKENS = 2048
MANY_STEPS = 10_000  # those of all batches to come, with a model that can't change any more
_STOCK_SIGNATURE = inspect.signature(SequenceGenerator.__init__)


class ELSequenceGenerator(SequenceGenerator):
    """fairseq's :class:`~fairseq.sequence_generator.SequenceGenerator`: same constructor, inputs and outputs.

    It decodes EL models, other fairseq models, and ensembles of both, with every search strategy. With EL models

    - words forced by ``prefix_tokens`` are read in one pass, once for all beams;
    - the encoder, prompts and the output projection run over parts of a large batch, so that their intermediate
      results take little memory. Hypotheses do not depend on it.

    A batch that does not fit into memory is decoded in halves, and these in halves, with the same hypotheses and one
    warning that names the batch size to use (:mod:`fairseq_el.generation.failures.halves`).

    It does not share these errors of stock:

    - the beam size is set in models that keep it (stock BART) before every batch, for beam size 1 too, so one model
      object can serve generators of different beam sizes;
    - diverse beam search works on every batch. Stock 0.12.3 indexes a buffer of the batch by the sentences' numbers in
      the whole data set, and ends in an IndexError where these exceed the batch's size. Here they then count from 0;
    - ``--no-repeat-ngram-size`` forbids repeated n-grams on every device. Stock 0.12 compares with the end of a padded
      buffer unless its CUDA extension is built, and so forbids nothing (:attr:`ngram_blocking_as_stock` does the same);
    - it does not try that extension as stock does, which makes it read behind a tensor
      (:mod:`fairseq_el.generation.ngram_extension`);
    - every hypothesis says in ``"steps"`` after how many steps it ended, so that ``--print-step`` works.

    Attributes:
        encoder_tokens: positions that the encoder, or a pass over prompts, reads at a time.
        record_attention: whether hypotheses get their encoder-decoder attention, as in stock. It takes
            ``B * b * n * t`` numbers, as much as all else for long inputs.
        memory_budget: bytes that cross-attention may keep of the source where the backend is ``"auto"`` (default: half
            of the memory that is free).
        ngram_blocking_as_stock: leave n-grams to stock's code, which without its CUDA extension forbids none.
        int8_weights: compute linear layers of EL models in 8 bits, where
            :func:`fairseq_el.decoding.why_not_in_int8` has no objection.
        cuda_graphs: whether a card replays the steps of plain beam search from CUDA graphs: ``"on"``, ``"off"``, or
            ``"auto"``, which is on where torch has graphs (:data:`fairseq_el.policy.GRAPHS_BY_DEFAULT`).
        transformers_rules: search as transformers' ``generate()`` does, if the strategy is plain beam search.
        first_symbol: the symbol that hypotheses begin with (default: the eos).
        min_new_tokens, max_new_tokens: how many words must and may follow a prompt, the eos included; None where
            ``min_len`` and ``max_len`` alone hold, which count the prompt.
        alone: decode every sentence as if it were a batch of its own (:mod:`fairseq_el.generation.alone`).
        seed: of the random numbers where sentences are decoded so.
        on_step: called after every step with its number and the decode states of the models. Batches are then decoded
            step by step in Python.
        on_batch: called after every batch, or part of a batch, with the most bytes that EL models kept meanwhile, a
            :class:`~fairseq_el.generation.ensemble.StateBytes`. It does not change how batches are decoded.
    """

    encoder_tokens: int = DEFAULT_ENCODER_TOKENS
    record_attention: bool = True
    memory_budget: Optional[int] = None
    ngram_blocking_as_stock: bool = False
    int8_weights: bool = False
    cuda_graphs: str = "auto"
    transformers_rules: Optional[TransformersRules] = None
    first_symbol: Optional[int] = None
    min_new_tokens: Optional[int] = None
    max_new_tokens: Optional[int] = None
    alone: bool = False
    seed: int = 1
    on_step: Optional[OnStep] = None
    on_batch: Optional[OnBatch] = None

    def __init__(self, *args: Any, **kwargs: Any):
        given = _STOCK_SIGNATURE.bind(self, *args, **kwargs)
        ngram_size = given.arguments.pop("no_repeat_ngram_size", 0)
        super().__init__(*given.args[1:], **given.kwargs)
        if ngram_size > 0:
            self.repeat_ngram_blocker = unprobed_blocker(ngram_size)

    def _generate(
        self,
        sample: Dict[str, Any],
        prefix_tokens: Optional[Tensor] = None,
        constraints: Optional[Tensor] = None,
        bos_token: Union[int, Tensor, None] = None,
    ) -> Hypotheses:
        check_input(sample["net_input"])
        options = {"prefix_tokens": prefix_tokens, "constraints": constraints, "bos_token": bos_token}
        decode = functools.partial(decode_alone, self) if self.alone else self._decode
        return decode_in_halves(self, decode, sample, options)

    def _decode(
        self,
        sample: Dict[str, Any],
        prefix_tokens: Optional[Tensor],
        constraints: Optional[Tensor],
        bos_token: Union[int, Tensor, None],
        alone: bool = False,
    ) -> Hypotheses:
        """Decodes all sentences together. ``alone``: each as if it were alone."""
        for model in self.model.models:
            if hasattr(model, "set_beam_size"):
                model.set_beam_size(self.beam_size)
        numbers = sample.get("id")
        if isinstance(self.search, DiverseBeamSearch):
            sample = _number_within_batch(sample, always=alone)
        first_symbol = self.first_symbol if bos_token is None else bos_token
        batch = (sample, prefix_tokens, constraints, first_symbol, alone)
        random_state = RandomState(source_in(sample).device)
        try:
            search = choose_search(*self._prepared(*batch))
            hypotheses = search.run()
        except (AssertionError, RuntimeError) as error:
            if not found_no_word(error):
                raise
            free_frames(error)
            random_state.restore()
            raise NoHypothesisError(explain(*self._prepared(*batch), error, numbers)) from error
        if self.on_batch is not None:
            self.on_batch(search.decoders.peak)
        return hypotheses

    def _prepared(
        self,
        sample: Dict[str, Any],
        prefix_tokens: Optional[Tensor],
        constraints: Optional[Tensor],
        first_symbol: Union[int, Tensor, None],
        alone: bool = False,
    ) -> Tuple[SearchRules, ActiveBatch, EnsembleDecoder]:
        """The rules, the sentences and the models of a search that has not begun."""
        rules = replace(SearchRules.of(self), alone=alone)
        batch = ActiveBatch(rules, sample, prefix_tokens, constraints, first_symbol)
        num_sentences, src_len = batch.source.shape[:2]
        new_state = functools.partial(
            self.new_state, num_sentences=num_sentences, src_len=src_len, max_steps=batch.max_len + 1
        )
        decoders = EnsembleDecoder(
            self.model.models,
            rules.beam_size,
            new_state,
            self.encoder_tokens,
            self.record_attention,
            self.on_step,
            measures=self.on_batch is not None,
            uses_graphs=uses_graphs(self.cuda_graphs, batch.device),
        )
        return rules, batch, decoders

    @property
    def memory_record(self) -> MemoryRecord:
        """Sizes of batches that have not fitted into memory so far."""
        record: MemoryRecord = self.__dict__.setdefault("_memory_record", MemoryRecord())
        return record

    def new_state(self, model: Any, num_sentences: int, src_len: int, max_steps: int) -> DecodeState:
        """Makes what the beams of a batch share while an EL model decodes it."""
        backend = backend_of(model)
        if backend == "auto":
            steps = (self.min_len, max_steps - 1)
            length = encoded_length(getattr(model, "encoder", None), src_len)
            backend = choose_for_batch(model, num_sentences, self.beam_size, length, steps, self.memory_budget)
        linears = self.linears_for(model, num_sentences, max_steps)
        return DecodeState(num_sentences, self.beam_size, max_steps, backend, linears)

    def linears_for(self, model: Any, num_sentences: int, max_steps: int) -> Linears:
        """The way a model's linear layers are computed; kept from batch to batch if the model can't change any more."""
        if not is_inference_only(model):
            return Linears(num_sentences * self.beam_size, max_steps, self.int8_weights)
        kept = self.__dict__.setdefault("_kept_linears", {})
        linears: Linears = kept.setdefault((id(model), self.int8_weights), Linears(0, int8=self.int8_weights))
        linears.num_rows, linears.num_uses = num_sentences * self.beam_size, MANY_STEPS
        return linears

    def __prepare_scriptable__(self) -> SequenceGenerator:
        """Returns stock's generator with these settings, which ``torch.jit.script`` compiles instead.

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


class ELSequenceGeneratorWithAlignment(SequenceGeneratorWithAlignment, ELSequenceGenerator):
    """fairseq's generator with alignments (``--print-alignment``), for EL models."""

    def generate(self, models: Sequence[nn.Module], sample: Dict[str, Any], **options: Any) -> Hypotheses:
        """Decodes, then aligns, as stock does; aligning takes memory of its own."""
        return decode_in_halves(self, functools.partial(super().generate, models), sample, options)


def _number_within_batch(sample: Dict[str, Any], always: bool) -> Dict[str, Any]:
    """The sample with sentences numbered from 0, if it is a part of a batch or has numbers beyond its size.

    Args:
        always: number them in any case, as parts are.
    """
    ids = sample.get("id")
    if ids is None or ids.numel() == 0:
        return sample
    if not always and WholeBatch.of_part(sample) is None and int(ids.max()) < ids.numel():
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


def build_el_generator(build: Callable[..., Any], models: Any, args: Any, *more: Any, **kwargs: Any) -> Any:
    """The EL generator that a task's ``build_generator`` makes, without fairseq's probe of its CUDA extension.

    Args:
        build: the task's method.
        models, args, more, kwargs: what it is called with; ``args`` are options of generation.
    """
    ngram_size = getattr(args, "no_repeat_ngram_size", None) or 0
    if ngram_size <= 0:
        return el_generator(build(models, args, *more, **kwargs))
    without = copy.copy(args)
    without.no_repeat_ngram_size = 0
    generator = el_generator(build(models, without, *more, **kwargs))
    if getattr(generator, "repeat_ngram_blocker", ngram_size) is None:
        is_el = isinstance(generator, ELSequenceGenerator)
        generator.repeat_ngram_blocker = (unprobed_blocker if is_el else stock_blocker)(ngram_size)
    return generator


def _with_settings_of(generator: Any, known: Any) -> Any:
    """A generator of class ``known`` with the models and settings of another."""
    converted = known.__new__(known)
    nn.Module.__init__(converted)
    converted.__dict__.update(generator.__dict__)
    return converted
