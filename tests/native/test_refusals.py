"""What native code refuses: the Python way decodes it, and the log says once why."""

from __future__ import annotations

import argparse
from typing import Any

import pytest
import torch
from fairseq.ngram_repeat_block import NGramRepeatBlock
from native_cases import LENGTHS, SOME, WORDS, generator_of, logged, make
from searches import skip_unless_compiled
from tiny import TinyELTask, batch, build_language_model

from fairseq_el.generation import ELSequenceGenerator, TransformersRules

skip_unless_compiled()


class OwnBlocker(NGramRepeatBlock):
    pass


def with_blocker(generator: Any) -> None:
    generator.repeat_ngram_blocker = OwnBlocker(2)


def with_own(name: str, change: Any) -> Any:
    def changed(generator: Any) -> None:
        change(getattr(generator.model.single_model.decoder, name))

    return changed


def without_weights(generator: Any) -> None:
    generator.model.single_model.decoder.layers[0].final_layer_norm.weight = None


def with_another(name: str, new: Any) -> Any:
    def changed(generator: Any) -> None:
        parent, _, child = name.rpartition(".")
        known = generator.model.single_model.decoder.get_submodule(name)
        setattr(generator.model.single_model.decoder.get_submodule(parent), child, new(known))

    return changed


class OwnLinear(torch.nn.Linear):
    pass


def own_linear(linear: Any) -> Any:
    result = OwnLinear(linear.in_features, linear.out_features, linear.bias is not None).to(linear.weight)
    result.load_state_dict(linear.state_dict())
    return result.requires_grad_(False)


def settings(**values: Any) -> Any:
    return lambda generator: [setattr(generator, name, value) for name, value in values.items()]


REFUSED = {
    "attention is recorded": (settings(record_attention=True), {}),
    "somebody watches every step": (settings(on_step=lambda step, states: None), {}),
    "repeated n-grams are left to fairseq's module": (with_blocker, {}),
    "the search is not fairseq's plain beam search": (settings(transformers_rules=TransformersRules()), {}),
    "the output projection is a OwnLinear": (with_another("output_projection", own_linear), {}),
    "a layer has a OwnLinear in the place of nn.Linear": (with_another("layers.0.fc1", own_linear), {}),
    "a module of the decoder has hooks": (
        lambda generator: generator.model.single_model.decoder.layer_norm.register_forward_hook(lambda *args: None),
        {"decoder_normalize_before": True},
    ),
    "the activation is": (
        lambda generator: setattr(generator.model.single_model.decoder.layers[1], "activation_fn", torch.sigmoid),
        {},
    ),
    "with modules that fairseq's own has not": (lambda generator: None, {"scale_heads": True}),
    "the models are not one EL model": (lambda generator: None, {"adaptive_softmax_cutoff": "8,14"}),
}


@pytest.mark.parametrize("reason", REFUSED)
def test_what_native_code_refuses_is_said_once(reason, monkeypatch, caplog):
    change, options = REFUSED[reason]
    generator = generator_of(make(share_decoder_input_output_embed=False, **options))
    change(generator)
    assert reason in logged(monkeypatch, caplog, generator)


def test_prefixes_with_an_end_in_them(monkeypatch, caplog):
    prefix = torch.tensor([[5, 6], [7, 2], [8, 1], [9, 4]])
    assert "prefixes can't be read in one pass" in logged(
        monkeypatch, caplog, generator_of(make()), prefix_tokens=prefix
    )


def test_ngrams_as_stock(monkeypatch, caplog):
    generator = generator_of(make(), no_repeat_ngram_size=2)
    generator.ngram_blocking_as_stock = True
    assert "repeated n-grams are left" in logged(monkeypatch, caplog, generator)


def test_two_models(monkeypatch, caplog):
    generator = ELSequenceGenerator([make(), make("bart_base")], WORDS, **SOME)
    generator.record_attention = False
    assert "the models are not one EL model" in logged(monkeypatch, caplog, generator)


def test_other_searches(monkeypatch, caplog):
    model = make()
    options = argparse.Namespace(beam=4, max_len_b=6, diverse_beam_groups=2)
    generator = TinyELTask(WORDS).build_generator([model], options)
    generator.record_attention = False
    assert "the search is not fairseq's plain beam search" in logged(monkeypatch, caplog, generator)


def test_a_language_model_beside_the_model(monkeypatch, caplog):
    language_model = build_language_model(WORDS, seed=1)
    generator = generator_of(make(), lm_model=language_model, lm_weight=0.3)
    assert "a language model has a say" in logged(monkeypatch, caplog, generator)


def test_several_dtypes(monkeypatch, caplog):
    """fairseq's layers can't compute with them either; a decoder whose positions are in another can."""
    model = make(decoder_learned_pos=True)
    model.decoder.embed_positions.float()
    message = logged(monkeypatch, caplog, generator_of(model))
    assert "the decoder is in torch.float32, torch.float64, not in float64, float32 or bfloat16" in message


def test_recorded_gradients():
    from fairseq_el.generation.native_search import NativeSearch

    model, reasons = make(), []
    original = NativeSearch.refusal.__func__

    def refusal(cls: Any, *args: Any) -> Any:
        reasons.append(original(cls, *args))
        return reasons[-1]

    with pytest.MonkeyPatch.context() as patch, torch.enable_grad():
        patch.setattr(NativeSearch, "refusal", classmethod(refusal))
        generator_of(model)._generate(batch(WORDS, LENGTHS, seed=3))
    assert reasons == ["gradients are recorded"]


def test_switched_off(monkeypatch, caplog):
    monkeypatch.setenv("FAIRSEQ_EL_NATIVE", "0")
    assert logged(monkeypatch, caplog, generator_of(make())) == "there is no native code"
