"""The models of an ensemble while they decode one batch."""

from __future__ import annotations

import functools
import math
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Sequence, Tuple

import torch
from fairseq.models import BaseFairseqModel, FairseqDecoder, FairseqIncrementalDecoder
from fairseq.models.transformer import TransformerDecoderBase, TransformerModelBase
from torch import Tensor, nn

from fairseq_el.decoding import (
    SPEECH_DECODERS,
    SPEECH_MODELS,
    DecodeState,
    NetInput,
    SharedEncoderOut,
    can_share_past,
    decode_prompts,
    decode_step,
    encode,
    is_el_model,
    run_encoder,
)
from fairseq_el.ops import log_probabilities

_NORMALIZES = ("get_normalized_probs", "get_normalized_probs_scriptable")
_MODELS = (BaseFairseqModel, TransformerModelBase, *SPEECH_MODELS)

OnStep = Callable[[int, List[DecodeState]], None]  # called with the number of a step and the states of EL models


class StateBytes(NamedTuple):
    """The most that the EL models of an ensemble have kept from step to step while they decoded a batch.

    Attributes:
        past: what self-attention keeps of words, with the room that is left, and who descends from whom.
        source: the encoder's output and mask, and what cross-attention keeps beside them.
    """

    past: int = 0
    source: int = 0


OnBatch = Callable[[StateBytes], None]


def _known(name: str, classes: Sequence[type]) -> List[Any]:
    return [getattr(known, name) for known in classes]


class ModelDecoder:
    """One model of an ensemble. EL models decode from a state that beams share; others decode as in stock.

    Symbols: ``B`` sentences, ``b`` beams, ``d`` width of the decoder, ``V`` words of the vocabulary, ``n`` positions of
    the source.

    Attributes:
        state: the state that beams share; None if the model decodes as in stock.
        is_softmax: whether log-probabilities are one softmax over the logits of the output projection.
        gives_attention: whether steps may return attention. Stock's decoders of speech do not.
    """

    def __init__(
        self,
        model: nn.Module,
        beam_size: int,
        incremental: bool,
        new_state: Callable[[], DecodeState],
    ):
        """``new_state``: makes what beams share in EL models, and is called for no other."""
        self.model: Any = model
        self.beam_size = beam_size
        self.incremental_state: Optional[Dict[str, Any]] = {} if incremental else None
        self.state: Optional[DecodeState] = None
        self._encoder_out: Any = None
        self._has_encoded = False  # a stock encoder may give None
        self._extra: Any = None  # what a stock model's decoder gave beside its logits
        self._first: Optional[Tensor] = None  # features of the last word of each prompt: (B, 1, d)
        if incremental and is_el_model(model) and can_share_past(self.model.decoder):
            self.state = new_state().put_into(self.incremental_state)
        self._has_own_logits = _has_own_output_layer(getattr(model, "decoder", None))
        self.is_softmax = self._is_softmax()
        self.gives_attention = not isinstance(getattr(model, "decoder", None), SPEECH_DECODERS)

    def encode(self, net_input: NetInput, source: Tensor, max_tokens: int) -> None:
        """Runs the encoder; for EL models over parts of the batch with at most ``max_tokens`` positions each."""
        self._has_encoded = True
        rows = torch.arange(source.size(0), device=source.device).repeat_interleave(self.beam_size)
        if self.state is None:
            out = run_encoder(self.model.encoder, net_input)
        else:
            out = encode(self.model.encoder, net_input, source, max_tokens, self.state.linears)
        self._encoder_out = self.model.encoder.reorder_encoder_out(out, rows)

    @property
    def encoder_out(self) -> Any:
        """The encoder's output for the sentences still decoded: fairseq's dictionary; None without an encoder."""
        return self._encoder_out

    def prompt(
        self, tokens: Tensor, lengths: Optional[Tensor], part: slice, need_attn: bool
    ) -> Tuple[Tensor, Optional[Tensor]]:
        """Reads prompts, as :func:`decode_prompts`, and keeps the features of their last words.

        Returns:
            features ``(B', t, d)`` and attention ``(B', t, n)`` or None.
        """
        output = decode_prompts(
            self.model.decoder,
            tokens,
            self._encoder_out,
            self._incremental_state(),
            lengths,
            part,
            need_attn=need_attn and self.gives_attention,
        )
        features = output.features
        if lengths is None:
            last = features[:, -1:]
        else:
            last = features.gather(1, (lengths[part] - 1).view(-1, 1, 1).expand(-1, 1, features.size(2)))
        self._first = last if self._first is None else torch.cat([self._first, last])
        return features, output.attn

    def first(self) -> Tensor:
        """Features of the last word of each prompt, for every beam. *Shape:* ``(B * b, 1, d)``."""
        assert self._first is not None
        return self._first.repeat_interleave(self.beam_size, dim=0)

    def keep_first(self, sentences: Optional[Tensor]) -> None:
        """Keeps the features of prompts for these sentences only, ``(B')``; None drops all."""
        if self._first is not None:
            self._first = None if sentences is None else self._first.index_select(0, sentences)

    def step(self, tokens: Tensor, in_search: Optional[Tensor], need_attn: bool) -> Tuple[Tensor, Optional[Tensor]]:
        """The decoder's output for the last of ``tokens`` ``(B * b, t)``.

        Returns:
            features (EL models) or logits (others), ``(B * b, 1, d or V)``, and attention, ``(B * b, n)`` or None.
        """
        if self.state is not None:
            output = decode_step(
                self.model.decoder,
                tokens,
                self._encoder_out,
                self._incremental_state(),
                in_search,
                need_attn=need_attn and self.gives_attention,
            )
            return output.features, None if output.attn is None else output.attn[:, -1]
        return self._stock_step(tokens)

    def _stock_step(self, tokens: Tensor) -> Tuple[Tensor, Optional[Tensor]]:
        """Does what fairseq's ``EnsembleModel.forward_decoder`` does."""
        if self.incremental_state is not None:
            outputs = self.model.decoder.forward(
                tokens, encoder_out=self._encoder_out, incremental_state=self.incremental_state
            )
        elif hasattr(self.model, "decoder"):
            outputs = self.model.decoder.forward(tokens, encoder_out=self._encoder_out)
        else:
            outputs = self.model.forward(tokens)
        self._extra = attn = outputs[1] if len(outputs) > 1 else None
        if attn is not None and not isinstance(attn, Tensor):
            attn = attn["attn"]
            attn = attn if attn is None or isinstance(attn, Tensor) else attn[0]
        return outputs[0][:, -1:], None if attn is None else attn[:, -1]

    def log_probs(self, output: Tensor, temperature: float) -> Tensor:
        """``(rows, 1, d or V)``, as :meth:`step` gives it, to log-probabilities ``(rows, V)``."""
        if self.state is not None:
            output = self._project(output)
        if temperature != 1.0:
            output = output / temperature
        if self.is_softmax:
            return log_probabilities(output[:, -1])
        log_probs: Tensor = self.model.get_normalized_probs((output, self._extra), log_probs=True, sample=None)
        return log_probs[:, -1]

    def _is_softmax(self) -> bool:
        model, decoder = self.model, self.model.decoder if self.state is not None else None
        return (
            decoder is not None
            and decoder.adaptive_softmax is None
            and not self._has_own_logits
            and all(getattr(type(model), name) in _known(name, _MODELS) for name in _NORMALIZES)
            and all(getattr(type(decoder), name) in _known(name, (FairseqDecoder,)) for name in _NORMALIZES)
        )

    def _project(self, features: Tensor) -> Tensor:
        decoder = self.model.decoder
        if decoder.adaptive_softmax is not None or self.state is None or self._has_own_logits:
            logits: Tensor = decoder.output_layer(features)
            return logits
        return self.state.linears(decoder.output_projection, features)

    def reorder(self, new_order: Tensor) -> None:
        """Follows the beams. ``new_order``: ``(B' * b)``, as in :meth:`DecodeState.reorder`."""
        if self.incremental_state is not None:
            if self.state is not None and self.state.tree.num_nodes > 0:
                self.state.reorder(new_order)
            elif self.state is None:
                self.model.decoder.reorder_incremental_state_scripting(self.incremental_state, new_order)
        if isinstance(self._encoder_out, SharedEncoderOut):
            self.drop_sentences(new_order)
        elif self._has_encoded:
            self._encoder_out = self.model.encoder.reorder_encoder_out(self._encoder_out, new_order)

    def drop_sentences(self, rows: Tensor) -> None:
        """Drops the encoder's output of sentences that ``rows`` has not, in place; see :meth:`reorder`."""
        if isinstance(self._encoder_out, SharedEncoderOut):
            self._encoder_out = self._encoder_out.compact(rows, in_place=True)

    def _incremental_state(self) -> Dict[str, Any]:
        assert self.incremental_state is not None
        return self.incremental_state


def _has_own_output_layer(decoder: Any) -> bool:
    """Returns whether a decoder computes logits in another way than fairseq's."""
    own = getattr(type(decoder), "output_layer", None) is not TransformerDecoderBase.output_layer
    return own or "output_layer" in vars(decoder)


class EnsembleDecoder:
    """The models of an ensemble, for one batch: a search sees nothing of them but log-probabilities.

    Attributes:
        models: one decoder for each model.
        encoder_tokens: positions that encoders, and passes over prompts, read at a time.
        need_attn: whether steps return encoder-decoder attention.
        peak: the sizes of what EL models kept; of the steps one by one if ``measures`` says so.
        uses_graphs: whether steps on a card may be replayed from CUDA graphs.
    """

    def __init__(
        self,
        models: Sequence[Any],
        beam_size: int,
        new_state: Callable[[Any], DecodeState],
        encoder_tokens: int,
        need_attn: bool,
        on_step: Optional[OnStep] = None,
        measures: bool = False,
        uses_graphs: bool = False,
    ):
        """
        Args:
            new_state: makes what beams share in an EL model while it decodes this batch.
            on_step: is called by :meth:`report`.
            measures: :meth:`report` updates :attr:`peak`.
        """
        self.uses_graphs = uses_graphs
        self.encoder_tokens = encoder_tokens
        self.on_step = on_step
        self.peak = StateBytes()
        self._measures = measures
        incremental = all(isinstance(getattr(model, "decoder", None), FairseqIncrementalDecoder) for model in models)
        self.has_encoder = hasattr(models[0], "encoder")
        self.models = [
            ModelDecoder(model, beam_size, incremental, functools.partial(new_state, model)) for model in models
        ]
        self.need_attn = need_attn and any(model.gives_attention for model in self.models)

    @property
    def all_share(self) -> bool:
        """Returns whether all models share the past of beams, so that prompts can be read in one pass."""
        return all(model.state is not None for model in self.models)

    @property
    def states(self) -> List[DecodeState]:
        return [model.state for model in self.models if model.state is not None]

    def encode(self, net_input: NetInput, source: Tensor) -> None:
        """Runs all encoders. ``source``: the part of ``net_input`` that they read, ``(B, n, ...)``."""
        if self.has_encoder:
            for model in self.models:
                model.encode(net_input, source, self.encoder_tokens)

    def log_probs(self, outputs: Sequence[Tensor], temperature: float) -> Tensor:
        """Logarithms of the models' mean probabilities, ``(rows, V)``. ``outputs``: of each, ``(rows, 1, d or V)``."""
        log_probs = [model.log_probs(output, temperature) for model, output in zip(self.models, outputs)]
        if len(log_probs) == 1:
            return log_probs[0]
        return torch.logsumexp(torch.stack(log_probs), dim=0) - math.log(len(log_probs))

    @property
    def is_softmax(self) -> bool:
        """Returns whether :meth:`log_probs` is one softmax, so that a row of it has NaN everywhere or nowhere."""
        return len(self.models) == 1 and self.models[0].is_softmax

    def step(self, tokens: Tensor, in_search: Optional[Tensor]) -> Tuple[List[Tensor], Optional[Tensor]]:
        """Does :meth:`ModelDecoder.step` for every model, and takes the mean of their attention."""
        outputs, attns = zip(*(model.step(tokens, in_search, self.need_attn) for model in self.models))
        return list(outputs), mean_attention(attns)

    def report(self, step: int) -> None:
        """Takes the sizes of the states, and calls ``on_step``: a step was decoded."""
        self.measure(self.states)
        if self.on_step is not None:
            self.on_step(step, self.states)

    def measure(self, states: Sequence[DecodeState]) -> None:
        """Takes the sizes of states, if sizes are asked for."""
        if self._measures:
            past = sum(state.capacity_bytes() for state in states)
            source = sum(state.source_bytes() for state in states)
            self.peak = StateBytes(max(self.peak.past, past), max(self.peak.source, source))

    def reorder(self, new_order: Tensor) -> None:
        for model in self.models:
            model.reorder(new_order)


def mean_attention(attns: Sequence[Optional[Tensor]]) -> Optional[Tensor]:
    """Mean over models, as fairseq has it: those without attention count as zero. None if no model has any."""
    known = [attn for attn in attns if attn is not None]
    if not known:
        return None
    return sum(known[1:], known[0]) / len(attns)
