from __future__ import annotations

import argparse

import pytest
import torch
from fairseq.models import ARCH_CONFIG_REGISTRY, ARCH_MODEL_INV_REGISTRY, ARCH_MODEL_REGISTRY
from tiny import TinyTask, batch, build_model, dictionary

import fairseq_el
from fairseq_el.architectures import ELBARTModel, ELTransformerModel

WORDS = dictionary()


@pytest.mark.parametrize("stock", ["transformer", "bart", "transformer_lm"])
def test_every_stock_architecture_has_an_el_one_with_the_same_settings(stock):
    archs = ARCH_MODEL_INV_REGISTRY[stock]
    assert sorted(ARCH_MODEL_INV_REGISTRY[f"el_{stock}"]) == sorted(f"el_{arch}" for arch in archs)
    for arch in archs:
        settings = []
        for name in (arch, f"el_{arch}"):
            args = argparse.Namespace()
            ARCH_CONFIG_REGISTRY[name](args)
            settings.append(vars(args))
        assert settings[0] == settings[1]


def test_the_named_architectures_exist():
    assert ARCH_MODEL_REGISTRY["el_transformer"] is ELTransformerModel
    assert ARCH_MODEL_REGISTRY["el_transformer_iwslt_de_en"] is ELTransformerModel
    assert ARCH_MODEL_REGISTRY["el_bart_base"] is ARCH_MODEL_REGISTRY["el_bart_large"] is ELBARTModel


@pytest.mark.parametrize("arch", ["transformer", "bart_base"])
def test_training_is_bit_identical_to_stock(arch):
    """Same loss, gradients and dropout; same keys in the state dict."""
    sample = batch(WORDS, [5, 2, 7, 1], seed=3)["net_input"]
    target = torch.randint(4, len(WORDS), (4, 6), generator=torch.Generator().manual_seed(1))
    results = []
    for name in (arch, f"el_{arch}"):
        model = build_model(name, WORDS, seed=1, dropout=0.2, attention_dropout=0.2)
        model.train()
        torch.manual_seed(4)
        logits, _ = model(sample["src_tokens"], sample["src_lengths"], target.roll(1, dims=1))
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), target.flatten())
        loss.backward()
        grads = {key: p.grad for key, p in model.named_parameters() if p.grad is not None}
        results.append((loss, grads, list(model.state_dict())))
    (loss, grads, keys), (el_loss, el_grads, el_keys) = results
    assert torch.equal(loss, el_loss) and keys == el_keys
    assert grads.keys() == el_grads.keys() and any("encoder_attn.k_proj" in key for key in grads)
    assert all(torch.equal(grads[key], el_grads[key]) for key in grads)


@pytest.mark.parametrize("arch", ["transformer", "bart_base"])
def test_decodes_with_el_attention_under_a_stock_task(arch):
    stock, el = build_model(arch, WORDS, seed=1), build_model(f"el_{arch}", WORDS, seed=1)
    assert fairseq_el.el_attention_enabled(el) and not fairseq_el.el_attention_enabled(stock)
    task = TinyTask(WORDS)
    options = argparse.Namespace(beam=3, max_len_b=8)
    hypotheses = [
        [h["tokens"].tolist() for hs in task.inference_step(generator, [m], batch(WORDS, [5, 2], seed=1)) for h in hs]
        for m in (stock, el)
        for generator in [task.build_generator([m], options)]
    ]
    assert hypotheses[0] == hypotheses[1]


def test_an_option_that_decoding_can_not_do_is_refused_before_training():
    with pytest.raises(fairseq_el.UnsupportedModelError, match="--cross-self-attention"):
        build_model("el_transformer", WORDS, seed=1, cross_self_attention=True)


def logits(model, sample):
    target = torch.randint(4, len(WORDS), (4, 6), generator=torch.Generator().manual_seed(1))
    if not hasattr(model, "encoder"):
        return model(target)[0]
    return model(sample["src_tokens"], sample["src_lengths"], target)[0]


@pytest.mark.parametrize("arch", ["el_transformer", "el_bart_base", "el_transformer_lm"])
def test_a_bias_of_the_output_projection(arch):
    """It is added to logits, is in the state dict, and gets gradients."""
    sample = batch(WORDS, [5, 2, 7, 1], seed=3)["net_input"]
    sizes = {"decoder_input_dim": 16, "decoder_output_dim": 16} if "lm" in arch else {}
    plain, biased = (build_model(arch, WORDS, 1, output_bias=output_bias, **sizes) for output_bias in (False, True))
    assert set(biased.state_dict()) - set(plain.state_dict()) == {"decoder.output_projection.bias"}
    bias = biased.decoder.output_projection.bias
    assert bias.shape == (len(WORDS),)
    plain.load_state_dict({key: value for key, value in biased.state_dict().items() if key in plain.state_dict()})
    found = logits(biased, sample)
    torch.testing.assert_close(found, logits(plain, sample) + bias, rtol=0, atol=1e-12)
    found.sum().backward()
    assert bias.grad.abs().sum() > 0


def test_an_output_bias_needs_an_output_projection():
    with pytest.raises(fairseq_el.FairseqElError, match="with --adaptive-softmax-cutoff there is none"):
        build_model("el_transformer", WORDS, 1, output_bias=True, adaptive_softmax_cutoff="8")


def test_the_activation_swish():
    """x times the logistic function of x, which stock fairseq 0.12 gets no further than the first layer with."""
    sample = batch(WORDS, [5, 2, 7, 1], seed=3)["net_input"]
    model = build_model("el_transformer", WORDS, 1, activation_fn="swish")
    assert logits(model, sample).isfinite().all()
    x = torch.linspace(-5, 5, 11)
    torch.testing.assert_close(model.decoder.layers[0].activation_fn(x), x * x.sigmoid())
    with pytest.raises(TypeError):
        logits(build_model("transformer", WORDS, 1, activation_fn="swish"), sample)
