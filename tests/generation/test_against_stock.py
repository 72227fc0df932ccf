"""ELSequenceGenerator against fairseq's own, over random models and random options.

Models are float64, so that EL-attention and stock attention agree to 1e-15 and hypotheses must be identical. Scores are
float32 in both (fairseq's log-softmax), so they are compared to 1e-6. What fairseq computes in float32 is rounded
alike. Else two hypotheses with scores that differ in the last bit would be ranked by the processor.
"""

from __future__ import annotations

import argparse
import copy
import os
from typing import Any

import pytest
import torch
from fairseq.ngram_repeat_block import NGramRepeatBlock
from hypothesis import given, settings
from hypothesis import strategies as st
from rounding import rounded_alike
from searches import in_python, natively
from tiny import TinyELTask, TinyTask, batch, build_language_model, build_model, dictionary

import fairseq_el
from fairseq_el import native
from fairseq_el.generation import ELSequenceGenerator, ELSequenceGeneratorWithAlignment

pytestmark = pytest.mark.usefixtures("both_ways")

WORDS = dictionary()
CASES_PER_TEST = int(os.environ.get("FAIRSEQ_EL_CASES", "100"))


@st.composite
def model_options(draw: Any) -> dict[str, Any]:
    """Architecture and options of a random encoder-decoder."""
    encoder_dim, decoder_dim = draw(st.sampled_from([(16, 16), (16, 16), (24, 16), (8, 24)]))
    options = {
        "arch": draw(st.sampled_from(["transformer", "transformer", "bart_base"])),
        "seed": draw(st.integers(0, 10**6)),
        "encoder_embed_dim": encoder_dim,
        "decoder_embed_dim": decoder_dim,
        "encoder_attention_heads": draw(st.sampled_from([1, 4])),
        "decoder_attention_heads": draw(st.sampled_from([1, 2, 8])),
        "encoder_layers": draw(st.integers(1, 2)),
        "decoder_layers": draw(st.integers(1, 3)),
        "encoder_normalize_before": draw(st.booleans()),
        "decoder_normalize_before": draw(st.booleans()),
        "encoder_learned_pos": draw(st.booleans()),
        "decoder_learned_pos": draw(st.booleans()),
        "no_token_positional_embeddings": draw(st.booleans()),
        "no_scale_embedding": draw(st.booleans()),
        "layernorm_embedding": draw(st.booleans()),
        "activation_fn": draw(st.sampled_from(["relu", "gelu"])),
        "dropout": 0.1,
        "attention_dropout": 0.2,
        "share_all_embeddings": False,
        "share_decoder_input_output_embed": draw(st.booleans()),
        "scale_attn": draw(st.booleans()),
        "scale_heads": draw(st.booleans()),
        "without_cross_attention_bias": draw(st.booleans()),
    }
    if encoder_dim == decoder_dim and draw(st.booleans()):
        options.update(share_all_embeddings=True, share_decoder_input_output_embed=True)
    elif draw(st.booleans()):
        options.update(
            share_decoder_input_output_embed=False, adaptive_softmax_cutoff="8,14", adaptive_softmax_factor=2
        )
    return options


def make_model(options: dict[str, Any]) -> torch.nn.Module:
    options = dict(options)
    without_bias = options.pop("without_cross_attention_bias")
    model = build_model(options.pop("arch"), WORDS, options.pop("seed"), **options)
    if without_bias:
        for layer in model.decoder.layers:
            layer.encoder_attn.k_proj.bias = layer.encoder_attn.v_proj.bias = None
    return model


@st.composite
def generation_options(draw: Any) -> dict[str, Any]:
    """Options as ``fairseq-generate`` would pass them to ``build_generator``."""
    beam = draw(st.integers(1, 6))
    max_len_b = draw(st.integers(1, 9))
    options: dict[str, Any] = {
        "beam": beam,
        "max_len_a": draw(st.sampled_from([0, 0.5, 1.2])),
        "max_len_b": max_len_b,
        "min_len": draw(st.integers(1, min(max_len_b, 4))),
        "unnormalized": draw(st.booleans()),
        "lenpen": draw(st.sampled_from([0.0, 0.6, 1.0, 2.0])),
        "unkpen": draw(st.sampled_from([0.0, 1.0, -2.0])),
        "temperature": draw(st.sampled_from([1.0, 0.7, 1.5])),
        "no_repeat_ngram_size": draw(st.sampled_from([0, 0, 1, 2, 3])),
        "print_alignment": draw(st.sampled_from([None, None, "hard", "soft"])),
    }
    search = draw(
        st.sampled_from(["beam", "beam", "diverse", "siblings", "sampling", "constraints", "match_source_len"])
    )
    if search == "diverse":
        groups = draw(st.sampled_from([g for g in range(1, beam + 1) if beam % g == 0]))
        options.update(diverse_beam_groups=groups, diverse_beam_strength=0.5)
    elif search == "siblings":
        options.update(diversity_rate=draw(st.sampled_from([0.2, 1.0])))
    elif search == "sampling":
        options.update(sampling=True)
        options.update(draw(st.sampled_from([{}, {"sampling_topk": 3}, {"sampling_topp": 0.7}])))
    elif search == "constraints":
        options.update(constraints=draw(st.sampled_from(["ordered", "unordered"])))
    elif search == "match_source_len":
        options.update(match_source_len=True)
    return options


@st.composite
def samples(draw: Any, constrained: bool) -> tuple[dict[str, Any], Any, Any]:
    """A ragged batch, with prefix tokens or lexical constraints or neither."""
    lengths = draw(st.lists(st.integers(1, 9), min_size=1, max_size=5))
    seed = draw(st.integers(0, 10**6))
    sample = batch(WORDS, lengths, seed, left_pad_source=draw(st.booleans()))
    generator = torch.Generator().manual_seed(seed)
    prefix_tokens = constraints = None
    if constrained:
        from fairseq.token_generation_constraints import pack_constraints

        words = [torch.randint(4, len(WORDS), (2,), generator=generator) for _ in lengths]
        constraints = pack_constraints([[w[:1], w[1:]] if i % 2 else [w[:1]] for i, w in enumerate(words)])
    elif draw(st.booleans()):
        prefix_tokens = torch.randint(4, len(WORDS), (len(lengths), draw(st.integers(1, 3))), generator=generator)
        ends = torch.randint(1, prefix_tokens.size(1) + 1, (len(lengths), 1), generator=generator)
        prefix_tokens[torch.arange(prefix_tokens.size(1)) >= ends] = WORDS.pad()
    return sample, prefix_tokens, constraints


@st.composite
def el_options(draw: Any) -> argparse.Namespace:
    """The options of EL-attention, as the command line would give them to a task."""
    return argparse.Namespace(
        el_backend=draw(st.sampled_from(["el", "shared-kv", "auto"])),
        el_self_attention=draw(st.sampled_from(["el", "kv"])),
        el_encoder_tokens=draw(st.sampled_from([1, 9, 8192])),
        el_ngram_blocking="stock",
    )


class GivenWordsSoFar(NGramRepeatBlock):
    """Stock's blocker as it is meant: without the padding at the end of the words, with which it compares otherwise."""

    def forward(self, tokens: Any, lprobs: Any, bsz: int, beam_size: int, step: int) -> Any:
        return super().forward(tokens[:, : step + 1], lprobs, bsz, beam_size, step)


def run(
    task: TinyTask,
    models: list,
    options: dict,
    sample: tuple,
    language_model: Any,
    seed: int,
    mend_blocker: bool = False,
) -> Any:
    """What a generator returns, or the error it raises: an option that stock refuses must be refused as well."""
    batch_, prefix_tokens, constraints = sample
    torch.manual_seed(seed)
    extra = {"lm_model": language_model, "lm_weight": 0.3} if language_model is not None else None
    try:
        generator = task.build_generator(models, argparse.Namespace(**options), extra_gen_cls_kwargs=extra)
        if isinstance(generator, ELSequenceGenerator):  # as stock, which tasks turn off where it is not printed
            generator.record_attention = (
                ELSequenceGenerator.record_attention or options.get("print_alignment") is not None
            )
        if mend_blocker and generator.repeat_ngram_blocker is not None:
            generator.repeat_ngram_blocker = GivenWordsSoFar(options["no_repeat_ngram_size"])
        with rounded_alike(next(models[0].parameters()).dtype):
            return generator, task.inference_step(generator, models, batch_, prefix_tokens, constraints)
    except (AssertionError, NotImplementedError, ValueError, IndexError, RuntimeError) as error:
        return None, error


def assert_refused_alike(mine: Any, theirs: Any) -> None:
    """The same error, or one of this package which is of its kind and says more."""
    assert isinstance(mine, type(theirs)), f"{mine!r} instead of {theirs!r}"
    if isinstance(mine, fairseq_el.FairseqElError):
        assert str(mine).endswith(".") and "\n" not in str(mine)
    else:
        assert str(mine) == str(theirs)


def assert_same(mine: Any, theirs: Any) -> None:
    if isinstance(theirs, Exception) or isinstance(mine, Exception):
        assert_refused_alike(mine, theirs)
        return
    assert len(mine) == len(theirs)
    for my_hypotheses, their_hypotheses in zip(mine, theirs):
        assert [h["tokens"].tolist() for h in my_hypotheses] == [h["tokens"].tolist() for h in their_hypotheses]
        for my, their in zip(my_hypotheses, their_hypotheses):
            assert my["steps"] == their["tokens"].numel()
            if ELSequenceGenerator.record_attention or len(their["alignment"]) > 0:
                torch.testing.assert_close(my["attention"], their["attention"], rtol=1e-6, atol=1e-6)
            # Sums of scores and their differences: float32 rounds by what was summed, which may cancel (--unkpen -2).
            summed = float(their["positional_scores"].double().abs().nan_to_num(posinf=0.0).sum())
            for key in ("score", "positional_scores"):
                torch.testing.assert_close(my[key], their[key], rtol=1e-6, atol=max(1e-6, 2**-22 * summed))
            if isinstance(their["alignment"], torch.Tensor):
                torch.testing.assert_close(my["alignment"], their["alignment"], rtol=1e-6, atol=1e-6)
            else:  # six decimals as text, whose last one may be rounded the other way
                printed = [[[float(number) for number in row] for row in found["alignment"]] for found in (my, their)]
                torch.testing.assert_close(*map(torch.tensor, printed), rtol=0.0, atol=1.5e-6)


def check(
    data: Any, models: list, options: dict[str, Any], language_model: Any = None, blocks_as_stock: bool = True
) -> None:
    sample = data.draw(samples(constrained="constraints" in options))
    stock_models = copy.deepcopy(models)
    # Stock blocks no n-gram on a CPU. Where it is mended, forced words are an exception that only EL generators make.
    mend = sample[1] is None and options["no_repeat_ngram_size"] > 1
    mend = mend and not (blocks_as_stock and data.draw(st.booleans()))
    if not (mend or blocks_as_stock):
        options = {**options, "no_repeat_ngram_size": 0}
    _, expected = run(TinyTask(WORDS), stock_models, options, copy.deepcopy(sample), language_model, 7, mend)
    config = data.draw(el_options())
    config.el_ngram_blocking = "all" if mend else "stock"
    el_task = TinyELTask(WORDS, config)
    generator, mine = run(el_task, models, options, sample, language_model, seed=7)
    if generator is not None:
        aligned = options.get("print_alignment") is not None
        assert type(generator) is (ELSequenceGeneratorWithAlignment if aligned else ELSequenceGenerator)
        assert fairseq_el.el_attention_enabled(models)
    assert_same(mine, expected)


@pytest.mark.parametrize("part", range(3))
@settings(max_examples=CASES_PER_TEST)
@given(data=st.data())
def test_one_model(part, data):
    data.draw(st.just(part))
    seeds = model_options().map(lambda options: {**options, "seed": options["seed"] + part})
    check(data, [make_model(data.draw(seeds))], data.draw(generation_options()))


ONLY_PLAIN_LAYERS = {"scale_attn": False, "scale_heads": False, "adaptive_softmax_cutoff": None}


def plain_beam_search(data: Any) -> dict[str, Any]:
    options = {**data.draw(generation_options()), "print_alignment": None}
    others = ("diverse_beam_groups", "diverse_beam_strength", "diversity_rate", "constraints", "match_source_len")
    return {name: options[name] for name in options if name not in others and not name.startswith("sampling")}


def the_way_that_is_tested() -> Any:
    """Native code decodes every batch, unless it is switched off."""
    return in_python() if native.extension() is None else natively()


@settings(max_examples=2 * CASES_PER_TEST)
@given(data=st.data())
def test_what_native_code_decodes(data):
    model = make_model({**data.draw(model_options()), **ONLY_PLAIN_LAYERS})
    with the_way_that_is_tested():
        check(data, [model], plain_beam_search(data), blocks_as_stock=False)


@settings(max_examples=CASES_PER_TEST)
@given(data=st.data())
def test_ensembles_of_different_sizes_and_language_model_fusion(data):
    models = [make_model(data.draw(model_options())) for _ in range(data.draw(st.integers(1, 2)))]
    language_model = build_language_model(WORDS, seed=data.draw(st.integers(0, 10**6)))
    check(data, models, data.draw(generation_options()), data.draw(st.sampled_from([language_model, None])))


@settings(max_examples=CASES_PER_TEST)
@given(data=st.data())
def test_retained_dropout(data):
    """``--retain-dropout``: the same random numbers drop the same weights, except in stock's fused encoder layers."""
    model = make_model(data.draw(model_options()))
    for module in model.decoder.modules():
        if hasattr(module, "apply_during_inference"):
            module.apply_during_inference = True
    check(data, [model], data.draw(generation_options()))


@settings(max_examples=CASES_PER_TEST)
@given(data=st.data())
def test_mixed_ensembles_and_stock_models(data):
    """The EL generator with stock models, and with an EL and a stock model together."""
    models = [make_model(data.draw(model_options())) for _ in range(2)]
    options = {**data.draw(generation_options()), "print_alignment": None}
    options.pop("constraints", None)
    sample = data.draw(samples(constrained=False))
    _, expected = run(TinyTask(WORDS), copy.deepcopy(models), options, copy.deepcopy(sample), None, seed=7)
    enabled = data.draw(st.sampled_from([0, 1, None]))

    class Mixed(TinyELTask):
        def build_generator(self, models, args, **kwargs):
            generator = super().build_generator(models, args, **kwargs)
            for i, model in enumerate(models):
                if i != enabled:
                    fairseq_el.disable_el_attention(model)
            return generator

    _, mine = run(Mixed(WORDS, data.draw(el_options())), models, options, sample, None, seed=7)
    assert_same(mine, expected)


@st.composite
def language_models(draw: Any, only: dict[str, Any] | None = None) -> torch.nn.Module:
    """A random decoder-only model. ``only``: options that are not drawn."""
    options = {
        "seed": draw(st.integers(0, 10**6)),
        "decoder_layers": draw(st.integers(1, 3)),
        "decoder_attention_heads": draw(st.sampled_from([1, 2, 8])),
        "decoder_normalize_before": draw(st.booleans()),
        "decoder_learned_pos": draw(st.booleans()),
        "no_token_positional_embeddings": draw(st.booleans()),
        "no_decoder_final_norm": draw(st.booleans()),
        "layernorm_embedding": draw(st.booleans()),
        "activation_fn": draw(st.sampled_from(["relu", "gelu"])),
        "scale_attn": draw(st.booleans()),
        "scale_heads": draw(st.booleans()),
        "decoder_input_dim": draw(st.sampled_from([16, 8])),
    }
    if draw(st.booleans()):
        options.update(
            share_decoder_input_output_embed=False, adaptive_softmax_cutoff="8,14", adaptive_softmax_factor=2
        )
    elif options["decoder_input_dim"] != 16:
        options.update(share_decoder_input_output_embed=False)
    return build_language_model(WORDS, **{**options, **(only or {})})


@settings(max_examples=2 * CASES_PER_TEST)
@given(data=st.data())
def test_language_models_continue_prompts(data):
    """Decoder-only models: prompts of different lengths, some of them empty, one or two models."""
    models = [data.draw(language_models()) for _ in range(data.draw(st.sampled_from([1, 1, 1, 2])))]
    options = {**data.draw(generation_options()), "print_alignment": None, "max_len_b": data.draw(st.integers(4, 16))}
    options.pop("constraints", None)
    check_continuations(data, models, options)


@settings(max_examples=CASES_PER_TEST)
@given(data=st.data())
def test_language_models_that_native_code_decodes(data):
    model = data.draw(language_models(ONLY_PLAIN_LAYERS))
    options = {**plain_beam_search(data), "max_len_b": data.draw(st.integers(4, 16)), "no_repeat_ngram_size": 0}
    with the_way_that_is_tested():
        check_continuations(data, [model], options)


def check_continuations(data: Any, models: list, options: dict[str, Any]) -> None:
    lengths = data.draw(st.lists(st.integers(0, 8), min_size=1, max_size=4))
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 10**6)))
    prompts = torch.randint(4, len(WORDS), (len(lengths), max(lengths)), generator=generator)
    prompts[torch.arange(max(lengths)) >= torch.tensor(lengths).unsqueeze(1)] = WORDS.pad()
    begun = torch.cat([torch.full((len(lengths), 1), WORDS.eos()), prompts], dim=1)
    batch_ = {"id": torch.arange(len(lengths)), "net_input": {"src_tokens": begun, "src_lengths": begun.ne(1).sum(1)}}
    results = []
    for task in (TinyTask(WORDS), TinyELTask(WORDS, data.draw(el_options()))):
        mine = copy.deepcopy(models)
        results.append(run(task, mine, options, (copy.deepcopy(batch_), prompts, None), None, seed=7)[1])
    assert_same(results[1], results[0])


@settings(max_examples=CASES_PER_TEST)
@given(data=st.data())
def test_decoder_logits(data):
    """Step by step over random words: logits of stock and EL models within 1e-10."""
    model = make_model(data.draw(model_options()))
    self_attention = data.draw(st.sampled_from(["el", "kv"]))
    el_model = fairseq_el.enable_el_attention(copy.deepcopy(model), self_attention=self_attention)
    sample, _, _ = data.draw(samples(constrained=False))
    num_sentences, beam_size = sample["id"].numel(), data.draw(st.integers(1, 4))
    rows = torch.arange(num_sentences).repeat_interleave(beam_size)
    words = torch.randint(4, len(WORDS), (rows.numel(), 6), generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        states = [
            (m, m.encoder.reorder_encoder_out(m.encoder.forward_torchscript(sample["net_input"]), rows), {})
            for m in (model, el_model)
        ]
        for step in range(1, 7):
            expected, mine = (
                m.decoder.forward(words[:, :step], encoder_out=out, incremental_state=state)[0]
                for m, out, state in states
            )
            torch.testing.assert_close(mine, expected, rtol=1e-10, atol=1e-10)
