"""Top-k attention in fairseq's modules and models."""

from __future__ import annotations

import argparse
import copy
import itertools
import pickle

import pytest
import torch
from fairseq import options
from fairseq.modules import MultiheadAttention
from fairseq.sequence_generator import SequenceGenerator
from tiny import (
    assert_same_hypotheses,
    batch,
    build_language_model,
    build_model,
    dictionary,
    hypotheses,
    snapshot,
)

from fairseq_el.decoding import disable_el_attention, el_attention_enabled, enable_el_attention, encode
from fairseq_el.errors import OptionError
from fairseq_el.generation import ELSequenceGenerator
from fairseq_el.topk import apply_topk, disable_topk_attention, enable_topk_attention, multihead_attention, topk_enabled
from fairseq_el.topk.enable import attentions_in
from fairseq_el.topk.multihead_attention import TopkAttentionSettings, TopkMultiheadAttention, set_topk, topk_of

WORDS = dictionary()
LENGTHS = [9, 2, 12, 5, 7]
ARCHITECTURES = pytest.mark.parametrize("arch", ["transformer", "bart_base"])


def scores_of_next_words(model, grad=False):
    """Of all positions, in one pass, as in training; and its gradients."""
    sample = batch(WORDS, LENGTHS, seed=3)
    net_input = {**sample["net_input"], "prev_output_tokens": sample["net_input"]["src_tokens"].flip(1)}
    with torch.set_grad_enabled(grad):
        return model(**net_input)[0]


def gradients(model):
    model.zero_grad()
    scores_of_next_words(model, grad=True).sin().sum().backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("training", [False, True])
@ARCHITECTURES
def test_with_all_keys_and_units_it_is_the_stock_model(arch, training):
    model = build_model(arch, WORDS, 1, dropout=0, attention_dropout=0, activation_dropout=0).train(training)
    expected, of_parameters = scores_of_next_words(model), gradients(model)
    enable_topk_attention(model, 12, "all", 24)
    torch.testing.assert_close(scores_of_next_words(model), expected, rtol=1e-10, atol=1e-12)
    for name, gradient in gradients(model).items():
        torch.testing.assert_close(gradient, of_parameters[name], rtol=1e-9, atol=1e-11)


@ARCHITECTURES
def test_training_never_makes_all_scores(arch, monkeypatch):
    model = enable_topk_attention(build_model(arch, WORDS, seed=1), 3).train()
    monkeypatch.setattr(multihead_attention, "keep_largest", None)  # what cuts all scores to the k largest
    assert gradients(model)
    with pytest.raises(TypeError):
        scores_of_next_words(model.eval())  # fairseq asks for the weights of cross-attention


@pytest.mark.parametrize("change", [{"attention": 1, "places": "encoder"}, {"ffn": 1}])
def test_encoders_of_loaded_models(change):
    """Post-norm layers with relu: fairseq 0.12.2 fuses those whose weights were loaded."""
    model = build_model("transformer", WORDS, seed=1, dtype=torch.float32)
    model.load_state_dict(model.state_dict())
    sample = batch(WORDS, LENGTHS, seed=3)["net_input"]
    inputs = sample["src_tokens"], sample["src_lengths"]
    before = [model.encoder(*inputs)["encoder_out"][0], encode(model.encoder, sample, inputs[0], 100)["encoder_out"][0]]
    enable_topk_attention(model, **change)
    stock, mine = model.encoder(*inputs)["encoder_out"][0], encode(model.encoder, sample, inputs[0], 100)["encoder_out"]
    visible = sample["src_tokens"].ne(WORDS.pad()).t().unsqueeze(2)
    torch.testing.assert_close(mine[0] * visible, stock * visible)
    assert all((stock - other)[visible.expand_as(stock)].abs().max() > 0.1 for other in before)
    disable_topk_attention(model)
    assert torch.equal(model.encoder(*inputs)["encoder_out"][0], before[0])
    left = {"score_limit", "topk", "_topk_was_fused"}
    assert not any(left & set(vars(module)) for module in model.modules())


@pytest.mark.parametrize("k", [1, 3, 7])
@pytest.mark.parametrize("causal", [False, True])
def test_chunks_and_gradients_equal_scores_that_are_all_there(k, causal):
    """The two ways of the module: queries in chunks with an own backward, and stock's scores, cut to the k largest."""
    torch.manual_seed(k)
    attention = MultiheadAttention(16, 4, self_attention=True).double().eval()
    attention.__class__ = TopkMultiheadAttention
    set_topk(attention, TopkAttentionSettings(k, query_chunk=3, causal=causal))
    x = torch.randn(10, 2, 16, dtype=torch.float64, requires_grad=True)
    hidden = torch.arange(10) >= torch.tensor([[10], [6]])
    future = torch.full((10, 10), float("-inf"), dtype=torch.float64).triu(1) if causal else None
    results = []
    for need_weights in (False, True):
        output, weights = attention(x, x, x, key_padding_mask=hidden, need_weights=need_weights, attn_mask=future)
        parameters = [x, *attention.parameters()]
        results.append([output, *torch.autograd.grad(output.square().sum(), parameters, allow_unused=True)])
    for mine, theirs in zip(*results):
        torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-12)
    assert weights.shape == (2, 10, 10)
    assert (attention(x, x, x, need_head_weights=True)[1] > 0).sum(dim=-1).max() == k


@ARCHITECTURES
@pytest.mark.parametrize(("k", "places", "ffn"), [(3, "all", None), (2, "cross", 5), (1, "encoder,decoder", None)])
def test_decoding_is_the_same_with_and_without_el_attention(k, places, ffn, arch):
    model = build_model(arch, WORDS, seed=1)
    search, sample = {"beam_size": 3, "max_len_b": 14, "min_len": 3}, batch(WORDS, LENGTHS, seed=3)
    before = hypotheses(SequenceGenerator([model], WORDS, **search), [model], sample)
    enable_topk_attention(model, k, places, ffn)
    expected = hypotheses(SequenceGenerator([model], WORDS, **search), [model], sample)
    assert [h[0] for s in expected for h in s] != [h[0] for s in before for h in s]
    for self_attention, backend in (("el", "el"), ("kv", "shared-kv")):
        enable_el_attention(model, backend, self_attention)
        assert_same_hypotheses(
            hypotheses(ELSequenceGenerator([model], WORDS, **search), [model], sample), expected, rel=1e-5
        )
    disable_el_attention(model)
    assert_same_hypotheses(hypotheses(SequenceGenerator([model], WORDS, **search), [model], sample), expected, rel=1e-5)
    disable_topk_attention(model)
    assert_same_hypotheses(hypotheses(SequenceGenerator([model], WORDS, **search), [model], sample), before, rel=1e-5)


@pytest.mark.parametrize("self_attention", [None, "el", "kv"])
def test_language_models_score_in_steps_what_they_score_at_once(self_attention):
    """Teacher-forced and with caches: in float64 the same numbers, prompts and beams included."""
    model = enable_topk_attention(build_language_model(WORDS, seed=1), 2, ffn=6)
    tokens = torch.randint(4, len(WORDS), (2, 9), generator=torch.Generator().manual_seed(1))
    tokens[:, 0] = WORDS.eos()
    at_once = model(tokens)[0].log_softmax(dim=-1)
    generator = SequenceGenerator([model], WORDS, beam_size=2, max_len_b=9)
    if self_attention is not None:
        enable_el_attention(model, self_attention=self_attention)
        generator = ELSequenceGenerator([model], WORDS, beam_size=2, max_len_b=9)
    sample = {"net_input": {"src_tokens": tokens, "src_lengths": torch.tensor([9, 9])}}
    found = generator.generate([model], sample, prefix_tokens=tokens[:, 1:], bos_token=WORDS.eos())
    for row, (best, *_) in enumerate(found):
        mine = best["positional_scores"][:8]
        expected = at_once[row, :8].gather(1, tokens[row, 1:, None]).squeeze(1)
        torch.testing.assert_close(mine.double(), expected, rtol=1e-5, atol=1e-6)  # generators add in float32


def test_incremental_scores_in_float64():
    model = enable_topk_attention(build_language_model(WORDS, seed=1), 2, ffn=6)
    tokens = torch.randint(4, len(WORDS), (2, 9), generator=torch.Generator().manual_seed(1))
    state = {}
    steps = [model.decoder(tokens[:, : i + 1], incremental_state=state)[0] for i in range(9)]
    torch.testing.assert_close(torch.cat(steps, dim=1), model(tokens)[0], rtol=1e-10, atol=1e-12)


def test_nothing_of_the_model_changes_but_its_function():
    model = build_model("transformer", WORDS, seed=1)
    state, modules = copy.deepcopy(model.state_dict()), dict(model.named_modules())
    enable_topk_attention(model, 2, ffn=3)
    assert topk_enabled(model)
    assert dict(model.named_modules()) == modules
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    copied = copy.deepcopy(model)
    torch.testing.assert_close(scores_of_next_words(copied), scores_of_next_words(model), rtol=0, atol=0)
    for p in copied.parameters():
        p.data.zero_()
    assert scores_of_next_words(copied).abs().sum() == 0 < scores_of_next_words(model).abs().sum()
    disable_topk_attention(model)
    assert not topk_enabled(model)
    assert all(type(module) is MultiheadAttention for module in attentions_in(model).values())


ON_AND_OFF = {
    "topk": (lambda model: enable_topk_attention(model, 2, ffn=3), disable_topk_attention),
    "el": (enable_el_attention, disable_el_attention),
}


@pytest.mark.parametrize("arch", ["transformer", "bart_base", "transformer_lm"])
@pytest.mark.parametrize("on", itertools.permutations(ON_AND_OFF))
@pytest.mark.parametrize("off", itertools.permutations(ON_AND_OFF))
def test_with_el_attention_on_and_off_in_any_order(arch, on, off):
    """Afterwards the model is what it was before; in between it computes what Top-k alone computes."""
    model = build_language_model(WORDS, seed=1) if arch == "transformer_lm" else build_model(arch, WORDS, seed=1)
    before, tokens = snapshot(model), torch.full((2, 7), 5)

    def scores():
        return model(tokens)[0] if arch == "transformer_lm" else scores_of_next_words(model)

    exact = scores()
    enable_topk_attention(model, 2, ffn=3)
    topk = scores()
    disable_topk_attention(model)
    enabled = []
    for turned, changes in ((on, 0), (off, 1)):
        for name in turned:
            ON_AND_OFF[name][changes](model)
            enabled = [*enabled, name] if changes == 0 else [other for other in enabled if other != name]
            assert el_attention_enabled(model) == ("el" in enabled) and topk_enabled(model) == ("topk" in enabled)
            assert torch.equal(scores(), topk if "topk" in enabled else exact)
    assert snapshot(model) == before


@pytest.mark.parametrize("arch", ["transformer", "bart_base"])
@pytest.mark.parametrize("on", itertools.permutations(ON_AND_OFF))
@pytest.mark.parametrize("copied", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_copies_of_models_with_both(arch, on, copied):
    model = build_model(arch, WORDS, seed=1)
    for name in on:
        ON_AND_OFF[name][0](model)
    twin = copied(model)
    generators = [ELSequenceGenerator([m], WORDS, beam_size=3, max_len_b=8) for m in (model, twin)]
    sample = batch(WORDS, LENGTHS, seed=3)
    assert hypotheses(generators[1], [twin], sample) == hypotheses(generators[0], [model], sample)
    expected = scores_of_next_words(model)
    disable_el_attention(disable_topk_attention(model))
    assert torch.equal(scores_of_next_words(twin), expected) and topk_enabled(twin) and el_attention_enabled(twin)
    twin.make_generation_fast_(need_attn=False)
    twin.to(torch.bfloat16)
    assert torch.isfinite(scores_of_next_words(twin)).all()


def test_dropout_is_drawn_while_training_only():
    model = enable_topk_attention(
        build_model("transformer", WORDS, 1, attention_dropout=0.5, activation_dropout=0.5), 3, ffn=5
    )
    assert torch.equal(scores_of_next_words(model.eval()), scores_of_next_words(model))
    model.train()
    torch.manual_seed(1)
    first = scores_of_next_words(model)
    assert not torch.equal(first, scores_of_next_words(model))
    torch.manual_seed(1)
    assert torch.equal(first, scores_of_next_words(model))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"topk_attention": 0}, r"--topk-attention must be a whole number, at least 1; it is 0\. It is how many keys"),
        ({"topk_attention": 2.5, "topk_ffn": "3"}, r"--topk-attention must .* is 2\.5\. .*--topk-ffn must .* is '3'"),
        ({"topk_ffn": 2, "topk_query_chunk": 8}, r"--topk-query-chunk needs --topk-attention K; got 8 without it"),
        ({"topk_ffn": -1, "topk_query_chunk": 0}, r"--topk-ffn must .* -1.*--topk-query-chunk must .* 0"),
        ({"topk_attention": 2, "topk_attention_in": "side"}, r"--topk-attention-in must be all, or some of .*'side'"),
        ({"topk_attention_in": "cross"}, r"--topk-attention-in needs --topk-attention K; got 'cross' without it"),
        (
            {"topk_attention": 2, "topk_attention_in": "encoder,cross"},
            r"names cross, but a TransformerLanguageModel has no such attention; .*names encoder",
        ),
    ],
)
def test_values_that_make_no_sense(settings, message):
    model = build_language_model(WORDS, seed=1)
    with pytest.raises(OptionError, match=message):
        apply_topk(model, argparse.Namespace(**settings))
    assert not topk_enabled(model)


def test_something_has_to_be_asked_for():
    with pytest.raises(OptionError, match="Top-k needs a K, of attention, of feed-forward layers"):
        enable_topk_attention(build_language_model(WORDS, seed=1))


def test_the_last_places_are_those_that_hold():
    model = enable_topk_attention(build_model("transformer", WORDS, seed=1), 4)
    enable_topk_attention(model, 2, "cross", ffn=3)
    found = {name: topk_of(module) for name, module in attentions_in(model).items()}
    assert {name for name, settings in found.items() if settings is not None} == set(
        attentions_in(model, frozenset(["cross"]))
    )
    enable_topk_attention(model, ffn=5)  # leaves attention as it is
    assert {name: topk_of(module) for name, module in attentions_in(model).items()} == found


@pytest.mark.parametrize("arch", ["topk_transformer", "topk_bart_base"])
@pytest.mark.parametrize("task", ["el_translation_from_pretrained_bart", "el_translation_multi_simple_epoch"])
def test_options_of_tasks_and_architectures_go_together(arch, task):
    parser = options.get_training_parser()
    arguments = ["data", "--arch", arch, "--task", task, "--topk-attention", "3", "--langs", "a,b"]
    if "multi" in task:
        arguments += ["--lang-pairs", "a-b"]
    assert options.parse_args_and_arch(parser, arguments).topk_attention == 3


def test_layers_that_can_not_be_top_k():
    model = build_model("transformer", WORDS, seed=1, activation_fn="tanh", attention_dropout=1.0)
    model.encoder.layers[0].self_attn.add_zero_attn = True
    with pytest.raises(OptionError) as caught:
        enable_topk_attention(model, 2, ffn=3)
    message = str(caught.value)
    assert "encoder.layers.0.self_attn has keys that belong to no word" in message
    assert message.count("its activation is tanh, not relu or gelu") == 4
    assert "decoder.layers.0.encoder_attn drops all of its weights (--attention-dropout 1.0)" in message
    with pytest.raises(OptionError, match=r"a Linear has no attention of fairseq's; .*a Linear has no feed-forward"):
        enable_topk_attention(torch.nn.Linear(2, 2), 2, ffn=3)
