from __future__ import annotations

import copy

import pytest
import torch
from fairseq.modules import MultiheadAttention
from fairseq.sequence_generator import SequenceGenerator
from tiny import batch, build_language_model, build_model, dictionary, snapshot

import fairseq_el
from fairseq_el.decoding.support import cross_attentions

WORDS = dictionary()
LENGTHS = [5, 2, 7, 1]
ARCHS = ["transformer", "bart_base"]


def decode(model, beam_size):
    generator = SequenceGenerator([model], WORDS, beam_size=beam_size, max_len_b=8)
    finalized = generator.generate([model], batch(WORDS, LENGTHS, seed=3))
    return [[hypothesis["tokens"].tolist() for hypothesis in hypotheses] for hypotheses in finalized]


@pytest.mark.parametrize("arch", ARCHS)
def test_on_off_any_number_of_times(arch):
    model = build_model(arch, WORDS, seed=1)
    expected = decode(build_model(arch, WORDS, seed=1), 4)
    before = snapshot(model)
    for _ in range(3):
        assert not fairseq_el.el_attention_enabled(model)
        assert fairseq_el.enable_el_attention(model) is model
        fairseq_el.enable_el_attention(model)
        assert fairseq_el.el_attention_enabled(model)
        assert decode(model, 4) == expected
        assert fairseq_el.disable_el_attention(model) is model
        fairseq_el.disable_el_attention(model)
        assert snapshot(model) == before
    assert decode(model, 4) == expected


@pytest.mark.parametrize("arch", ARCHS)
def test_state_dict_is_stock_throughout(arch):
    model = build_model(arch, WORDS, seed=1)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    fairseq_el.enable_el_attention(model)
    decode(model, 3)
    after = model.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[key], before[key]) for key in before)


@pytest.mark.parametrize("arch", ARCHS)
def test_reloaded_weights_are_used(arch):
    model = fairseq_el.enable_el_attention(build_model(arch, WORDS, seed=1))
    decode(model, 3)
    other = build_model(arch, WORDS, seed=2)
    model.load_state_dict(other.state_dict())
    assert decode(model, 3) == decode(other, 3)


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("order", ["enable first", "enable last"])
def test_conversions_before_or_after(arch, order):
    """bfloat16 stands for half precision, which old CPU builds of torch can't compute in."""
    model, stock = build_model(arch, WORDS, seed=1), build_model(arch, WORDS, seed=1)
    if order == "enable first":
        fairseq_el.enable_el_attention(model)
    for m in (model, stock):
        m.to(torch.float32).to(torch.device("cpu"))
        m.make_generation_fast_(need_attn=False)
    fairseq_el.enable_el_attention(model)
    assert decode(model, 3) == decode(stock, 3)
    model.to(torch.bfloat16)
    sample = batch(WORDS, LENGTHS, seed=3)["net_input"]
    encoder_out = model.encoder.forward_torchscript(sample)
    shared = model.encoder.reorder_encoder_out(encoder_out, torch.arange(4).repeat_interleave(3))
    tokens = torch.full((12, 1), WORDS.eos())
    logits = model.decoder.forward(tokens, encoder_out=shared, incremental_state={})[0]
    assert logits.dtype == torch.bfloat16 and torch.isfinite(logits.float()).all()


def test_a_copy_is_enabled_and_independent():
    model = fairseq_el.enable_el_attention(build_model("bart_base", WORDS, seed=1))
    clone = copy.deepcopy(model)
    fairseq_el.disable_el_attention(model)
    assert fairseq_el.el_attention_enabled(clone) and not fairseq_el.el_attention_enabled(model)
    assert decode(clone, 3) == decode(model, 3)


def test_lists_and_hub_interfaces():
    models = [build_model(arch, WORDS, seed=1) for arch in ARCHS]
    assert fairseq_el.enable_el_attention(models) is models
    assert fairseq_el.el_attention_enabled(models) and fairseq_el.el_attention_enabled(models[1])
    ensemble = SequenceGenerator(models, WORDS).model
    fairseq_el.disable_el_attention(ensemble)
    assert not any(fairseq_el.el_attention_enabled(model) for model in models)
    fairseq_el.enable_el_attention(models[0])
    assert not fairseq_el.el_attention_enabled(models)


def test_a_list_with_an_unsupported_model_is_left_alone():
    models = [build_model("transformer", WORDS, seed=1), build_model("transformer", WORDS, seed=1)]
    next(iter(cross_attentions(models[1]).values())).add_zero_attn = True
    with pytest.raises(fairseq_el.UnsupportedModelError):
        fairseq_el.enable_el_attention(models)
    assert not fairseq_el.el_attention_enabled(models[0])


@pytest.mark.parametrize("arch", ARCHS)
def test_one_model_serves_any_order_of_beam_sizes(arch):
    model = fairseq_el.enable_el_attention(build_model(arch, WORDS, seed=1))
    for beam_size in (4, 1, 5, 1, 4):
        assert decode(model, beam_size) == decode(build_model(arch, WORDS, seed=1), beam_size)


def test_what_stock_bart_left_behind_does_no_harm():
    """Stock BART keeps the last beam size; with it, its own scoring mixes up sentences (4 of them, beam size 4)."""
    model = build_model("bart_base", WORDS, seed=1)
    sample = batch(WORDS, LENGTHS, seed=3)
    tokens = torch.randint(4, len(WORDS), (4, 6), generator=torch.Generator().manual_seed(1))

    def score():
        return model(sample["net_input"]["src_tokens"], sample["net_input"]["src_lengths"], tokens)[0]

    with torch.no_grad():
        expected = score()
        decode(model, 4)
        left_behind = [attention.beam_size for attention in cross_attentions(model).values()]
        assert left_behind == [4, 4]
        fairseq_el.enable_el_attention(model)
        torch.testing.assert_close(score(), expected)
        decode(model, 4)
        torch.testing.assert_close(score(), expected)
    fairseq_el.disable_el_attention(model)
    assert [attention.beam_size for attention in cross_attentions(model).values()] == left_behind
    assert model.encoder.reorder_encoder_out == model.encoder._reorder_encoder_out


@pytest.mark.parametrize(("kind", "name"), [("el", "ELSelfAttention"), ("kv", "KVSelfAttention")])
def test_only_the_decoders_attention_changes(kind, name):
    model = fairseq_el.enable_el_attention(build_model("transformer", WORDS, seed=1), self_attention=kind)
    changed = {n: type(m).__name__ for n, m in model.named_modules() if isinstance(m, MultiheadAttention)}
    expected = {f"encoder.layers.{i}.self_attn": "MultiheadAttention" for i in range(2)}
    expected.update({f"decoder.layers.{i}.encoder_attn": "ELCrossAttention" for i in range(2)})
    expected.update({f"decoder.layers.{i}.self_attn": name for i in range(2)})
    assert changed == expected
    fairseq_el.disable_el_attention(model)
    assert all(type(m) is MultiheadAttention for m in model.modules() if isinstance(m, MultiheadAttention))
    assert not any("forward" in vars(m) or "reorder_incremental_state" in vars(m) for m in model.modules())


def test_the_kind_of_self_attention_stays_unless_another_is_asked_for():
    model = fairseq_el.enable_el_attention(build_model("transformer", WORDS, seed=1), self_attention="el")
    kinds = []
    for asked in (None, "kv", None, "el"):
        fairseq_el.enable_el_attention(model, self_attention=asked)
        kinds.append(type(model.decoder.layers[0].self_attn).__name__)
    assert kinds == ["ELSelfAttention", "KVSelfAttention", "KVSelfAttention", "ELSelfAttention"]
    with pytest.raises(ValueError, match=r"self_attention must be one of \['el', 'kv'\]; got 'both'"):
        fairseq_el.enable_el_attention(model, self_attention="both")


def test_a_language_model_can_be_enabled_copied_and_disabled():
    model = build_language_model(WORDS, seed=1)
    enabled = fairseq_el.enable_el_attention(copy.deepcopy(model))
    assert fairseq_el.el_attention_enabled(enabled) and not fairseq_el.el_attention_enabled(model)
    again = copy.deepcopy(enabled)
    assert again.decoder.forward.args[0] is again.decoder  # not the decoder that it was copied from
    assert list(again.state_dict()) == list(model.state_dict())
    assert not fairseq_el.el_attention_enabled(fairseq_el.disable_el_attention(again))
