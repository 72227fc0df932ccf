"""Decoders that differ from fairseq's Transformer: decoded exactly, or refused with the reason."""

from __future__ import annotations

import functools
import importlib
from typing import Any

import pytest
import torch
from fairseq.models import ARCH_MODEL_REGISTRY
from fairseq.models.transformer import TransformerDecoder
from fairseq.sequence_generator import SequenceGenerator
from tiny import assert_same_hypotheses, batch, build_model, dictionary, hypotheses

import fairseq_el
from fairseq_el.generation import ELSequenceGenerator

pytestmark = pytest.mark.usefixtures("both_ways")

WORDS = dictionary()
LENGTHS = [7, 4, 9]


def own_logits(decoder: TransformerDecoder, features: torch.Tensor) -> torch.Tensor:
    """Forbids a word, and changes the spread of all logits."""
    logits = 0.5 * TransformerDecoder.output_layer(decoder, features)
    logits[:, :, 7] = float("-inf")
    return logits


class OwnLogits(TransformerDecoder):
    """Only the output layer is its own."""

    def output_layer(self, features: torch.Tensor) -> torch.Tensor:
        return own_logits(self, features)


class Copies(TransformerDecoder):
    """A copy mechanism: attention to the words of the source is added to their logits."""

    def forward(self, tokens: Any, encoder_out: Any = None, incremental_state: Any = None, **unused: Any) -> Any:
        features, extra = self.extract_features(tokens, encoder_out, incremental_state)
        words = encoder_out["src_tokens"][0].unsqueeze(1).expand(-1, features.size(1), -1)
        return self.output_layer(features).scatter_add(2, words, extra["attn"][0].to(features)), extra


def with_decoder(kind: type) -> Any:
    model = build_model("transformer", WORDS, seed=1)
    model.decoder.__class__ = kind
    return model


def refusal(model: Any) -> str:
    with pytest.raises(fairseq_el.UnsupportedModelError) as error:
        fairseq_el.enable_el_attention(model)
    assert not fairseq_el.el_attention_enabled(model)
    return str(error.value)


@pytest.mark.parametrize("place", ["class", "instance"])
@pytest.mark.parametrize("options", [{}, {"prefix_tokens": torch.tensor([[5, 6], [8, 9], [6, 6]])}], ids=["", "prefix"])
def test_an_own_output_layer_is_called(place, options):
    model = with_decoder(OwnLogits if place == "class" else TransformerDecoder)
    if place == "instance":
        model.decoder.output_layer = functools.partial(own_logits, model.decoder)
    given = {"beam_size": 3, "max_len_b": 8}
    sample = batch(WORDS, LENGTHS, seed=2)
    stock = hypotheses(SequenceGenerator([model], WORDS, **given), [model], sample, **options)
    generator = ELSequenceGenerator([fairseq_el.enable_el_attention(model)], WORDS, **given)
    found = hypotheses(generator, [model], sample, **options)
    assert_same_hypotheses(found, stock, abs=1e-6)
    assert not any(7 in words for each in found for words, _ in each)


def test_a_copy_mechanism_is_refused():
    assert "its decoder Copies has its own forward, which may need encoder outputs of every beam" in refusal(
        with_decoder(Copies)
    )


def test_fairseqs_pointer_generator_is_refused():
    try:
        importlib.import_module("fairseq.examples.pointer_generator.pointer_generator_src.transformer_pg")
    except ImportError as error:
        pytest.skip(f"fairseq is installed without its examples: {error}")
    assert "transformer_pointer_generator" in ARCH_MODEL_REGISTRY
    options = {"alignment_layer": -1, "alignment_heads": 1, "source_position_markers": 0, "force_generation": 0.5}
    model = build_model("transformer_pointer_generator", WORDS, seed=1, **options)
    said = refusal(model)
    assert "its decoder TransformerPointerGeneratorDecoder has its own forward" in said


@pytest.mark.parametrize("kind", ["lightweight", "dynamic"])
def test_lightconv_and_dynamicconv_are_refused(kind):
    sizes = {"encoder_conv_dim": 16, "decoder_conv_dim": 16, "decoder_input_dim": 16, "decoder_output_dim": 16}
    layers = {"encoder_layers": 7, "decoder_layers": 6, "encoder_conv_type": kind, "decoder_conv_type": kind}
    said = refusal(build_model("lightconv_iwslt_de_en", WORDS, seed=1, **sizes, **layers))
    assert "its encoder is a LightConvEncoder; only fairseq's TransformerEncoder" in said
    assert "its decoder is a LightConvDecoder; only fairseq's TransformerDecoder is supported" in said
