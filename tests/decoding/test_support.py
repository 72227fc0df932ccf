from __future__ import annotations

import pytest
import torch
from fairseq.modules import MultiheadAttention
from fairseq.modules.quant_noise import quant_noise
from tiny import build_language_model, build_model, dictionary
from torch import nn

import fairseq_el
from fairseq_el.decoding import unsupported_reasons

WORDS = dictionary()


def transformer(**options):
    return build_model("transformer", WORDS, seed=1, **options)


def with_bias_kv():
    model = transformer()
    attention = model.decoder.layers[1].encoder_attn
    attention.bias_k = attention.bias_v = nn.Parameter(torch.zeros(1, 1, 16, dtype=torch.float64))
    return model


def changed(change):
    model = transformer()
    for layer in model.decoder.layers:
        change(layer.encoder_attn)
    return model


def with_class(attention):
    attention.__class__ = type("SparseAttention", (MultiheadAttention,), {})


def with_decoder_class(**methods):
    model = transformer()
    model.decoder.__class__ = type("PointerDecoder", (type(model.decoder),), methods)
    return model


def with_encoder_class():
    model = transformer()
    model.encoder.__class__ = type("GraphEncoder", (type(model.encoder),), {"reorder_encoder_out": lambda *a: None})
    return model


CASES = {
    "add_bias_kv": with_bias_kv,
    "add_zero_attn": lambda: changed(lambda a: setattr(a, "add_zero_attn", True)),
    "--cross-self-attention": lambda: transformer(cross_self_attention=True, no_cross_attention=True),
    "--no-cross-attention": lambda: transformer(cross_self_attention=True, no_cross_attention=True),
    "xformers": lambda: changed(lambda a: setattr(a, "use_xformers", True)),
    "--quant-noise-pq": lambda: transformer(quant_noise_pq=0.5, quant_noise_pq_block_size=8),
    "forward hooks": lambda: changed(lambda a: quant_noise(a.k_proj, 0.5, 8)),
    "k_proj is a Sequential": lambda: changed(lambda a: setattr(a, "k_proj", nn.Sequential(a.k_proj))),
    "it is a SparseAttention": lambda: changed(with_class),
    "PointerDecoder has its own forward": lambda: with_decoder_class(forward=lambda *a, **k: None),
    "own extract_features,": lambda: with_decoder_class(extract_features=lambda *a, **k: None),
    "own extract_features_scriptable": lambda: with_decoder_class(extract_features_scriptable=lambda *a: None),
    "own reorder_encoder_out": with_encoder_class,
    "its decoder is a LightConvDecoder": lambda: build_model(
        "lightconv_iwslt_de_en",
        WORDS,
        seed=1,
        encoder_conv_dim=16,
        decoder_conv_dim=16,
        encoder_layers=7,
        decoder_layers=6,
        decoder_input_dim=16,
        decoder_output_dim=16,
    ),
    "nonautoregressive": lambda: build_model("nonautoregressive_transformer", WORDS, seed=1),
}
MESSAGES = {"nonautoregressive": "has its own forward"}


@pytest.mark.parametrize("case", CASES)
def test_refused_with_the_reason_and_unchanged(case):
    model = CASES[case]()
    with pytest.raises(fairseq_el.UnsupportedModelError) as refusal:
        fairseq_el.enable_el_attention(model)
    assert MESSAGES.get(case, case) in str(refusal.value)
    assert "--task translation" in str(refusal.value)
    assert not fairseq_el.el_attention_enabled(model)


def test_every_reason_is_listed_once():
    model = with_bias_kv()
    for layer in model.decoder.layers:
        layer.encoder_attn.add_zero_attn = True
        layer.encoder_attn.v_proj = nn.Sequential(layer.encoder_attn.v_proj)
    model.encoder.__class__ = with_encoder_class().encoder.__class__
    reasons = unsupported_reasons(model)
    assert len(reasons) == 4
    assert any(reason.startswith("decoder.layers.0.encoder_attn and 1 more: add_zero_attn") for reason in reasons)
    assert any(reason.startswith("decoder.layers.1.encoder_attn: add_bias_kv") for reason in reasons)


def test_a_language_model_is_refused_with_its_own_task_named():
    model = build_language_model(WORDS, seed=1)
    model.decoder.layers[0].self_attn.add_zero_attn = True
    with pytest.raises(fairseq_el.UnsupportedModelError) as refusal:
        fairseq_el.enable_el_attention(model)
    assert "decoder.layers.0.self_attn: add_zero_attn" in str(refusal.value)
    assert "--task language_modeling instead of --task el_language_modeling" in str(refusal.value)


def test_language_models_are_supported():
    assert unsupported_reasons(build_language_model(WORDS, seed=1)) == []


@pytest.mark.parametrize("arch", ["transformer", "bart_base", "transformer_align", "mbart_base"])
def test_supported(arch):
    assert unsupported_reasons(build_model(arch, WORDS, seed=1)) == []
