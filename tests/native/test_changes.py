"""Native code and models that change between batches, or that have hooks."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from native_cases import EXACT, LENGTHS, WORDS, assert_same, both, generator_of, logged, make, tokens
from searches import skip_unless_compiled
from tiny import batch

import fairseq_el
from fairseq_el.generation import native_search as module
from fairseq_el.ops import can_pack

skip_unless_compiled()


def wide(dtype: torch.dtype = torch.float32) -> Any:
    """A model some of whose weights are packed, in float32, with 40 rows."""
    return make(dtype=dtype, decoder_embed_dim=64, decoder_ffn_embed_dim=2048, decoder_layers=1)


@pytest.mark.parametrize("for_inference_only", [False, True])
@pytest.mark.parametrize(
    "name",
    ["embed_tokens.weight", "layers.0.fc1.weight", "layers.0.fc2.bias", "layers.0.self_attn.k_proj.weight",
     "layers.0.encoder_attn.v_proj.bias", "layers.0.final_layer_norm.weight"],
)  # fmt: skip
def test_weights_that_change_in_place_are_seen(name, for_inference_only):
    model = wide()
    if for_inference_only:
        model.make_generation_fast_()
    generator = generator_of(model, beam_size=4, max_len_b=40)
    sample = batch(WORDS, list(range(1, 11)), seed=3)
    before, _ = both(generator, sample)
    weight = dict(model.decoder.named_parameters())[name]
    weight.mul_(-1.5)
    after, expected = both(generator, sample)
    assert_same(after, expected, rtol=1e-5, atol=2e-5)
    assert [float(h[0]["score"]) for h in after] != [float(h[0]["score"]) for h in before]
    setattr(
        model.decoder.get_submodule(name.rpartition(".")[0]), name.rpartition(".")[2], torch.nn.Parameter(weight / -1.5)
    )
    assert_same(both(generator, sample)[0], before, rtol=1e-5, atol=2e-5)


@pytest.mark.skipif(not can_pack("cpu", torch.float32), reason="this torch does not pack weights on this processor")
def test_packed_weights_are_among_those():
    model, packed = wide(), []
    original = module.native_model

    def described(*args: Any) -> Any:
        packed.append(original(*args).decoder.layers[0].up.packed)
        return original(*args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "native_model", described)
        both(generator_of(model, beam_size=4, max_len_b=40), batch(WORDS, list(range(1, 11)), seed=3))
    assert isinstance(packed[0], torch.Tensor)


def test_two_generators_share_a_model():
    model = make()
    narrow, wider = generator_of(model, beam_size=2), generator_of(model, beam_size=5, max_len_b=6)
    for generator in (narrow, wider, narrow):
        assert_same(*both(generator), **EXACT)


def test_disabling_el_attention_and_enabling_it_again(monkeypatch, caplog):
    model = make()
    generator = generator_of(model)
    expected = tokens(both(generator)[0])
    fairseq_el.disable_el_attention(model)
    assert "the models are not one EL model" in logged(monkeypatch, caplog, generator, expected=expected)
    fairseq_el.enable_el_attention(model)
    assert tokens(both(generator)[0]) == expected


def model_with_hooks(dtype: torch.dtype) -> Any:
    return make(dtype=dtype, layernorm_embedding=True, decoder_normalize_before=True, encoder_normalize_before=True)


@pytest.mark.parametrize("name", [name for name, _ in model_with_hooks(torch.float32).named_modules() if name])
@pytest.mark.parametrize("kind", ["register_forward_hook", "register_forward_pre_hook", "forward"])
def test_hooks_are_called_as_by_the_python_way(name, kind):
    """Whichever module of a model has one."""
    counts = []
    for native in ("1", "0"):
        calls = []
        model = model_with_hooks(torch.float32)
        hooked = model.get_submodule(name)
        if kind == "forward":
            forward = hooked.forward
            hooked.forward = lambda *args, forward=forward, calls=calls, **more: (
                calls.append(1),
                forward(*args, **more),
            )[1]
        else:
            getattr(hooked, kind)(lambda *args, calls=calls: calls.append(1))
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("FAIRSEQ_EL_NATIVE", native)
            generator_of(model).generate([model], batch(WORDS, LENGTHS, seed=3))
        counts.append(len(calls))
    assert counts[0] == counts[1]
