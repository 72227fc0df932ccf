"""Sentences decoded together against fairseq's own generator, which gets each in a batch of its own.

Models are float64, as in test_against_stock.py: tokens are equal, and scores within 1e-6.
"""

from __future__ import annotations

import argparse
import copy
from typing import Any

import pytest
import torch
from fairseq.search import PrefixConstrainedBeamSearch
from fairseq.sequence_generator import SequenceGenerator
from hypothesis import given, settings
from hypothesis import strategies as st
from test_against_stock import (
    CASES_PER_TEST,
    WORDS,
    GivenWordsSoFar,
    el_options,
    generation_options,
    language_models,
    make_model,
    model_options,
    samples,
)
from tiny import TinyELTask, TinyTask, batch, build_language_model, build_model

import fairseq_el
from fairseq_el import NoHypothesisError
from fairseq_el.generation import ELSequenceGenerator, TransformersRules, sentence_seed

pytestmark = pytest.mark.usefixtures("both_ways")

SEED = 3
CASES = max(CASES_PER_TEST // 4, 2)  # stock decodes every sentence by itself
FAILURES = (AssertionError, NotImplementedError, ValueError, IndexError, RuntimeError)
NUMBERS = [7, 0, 12, 3, 100_000]  # of the sentences in the data


def one_of(sample: tuple, i: int) -> tuple:
    """The ``i``-th sentence in a batch of its own: its number in the batch is 0, and there is no padding."""
    whole, prefix_tokens, constraints = sample
    source = whole["net_input"]["src_tokens"][i]
    source = source[source.ne(WORDS.pad())].unsqueeze(0)
    prefix = None
    if prefix_tokens is not None:
        is_word = prefix_tokens[i].ne(WORDS.pad()).nonzero()
        prefix = prefix_tokens[i : i + 1, : int(is_word.max()) + 1 if len(is_word) else 0]
    net_input = {"src_tokens": source, "src_lengths": torch.tensor([source.size(1)])}
    return {"id": torch.tensor([0]), "net_input": net_input}, prefix, None if constraints is None else constraints[[i]]


def decode(task: TinyTask, models: list, options: dict, sample: tuple, lm: Any, change: Any) -> Any:
    """The hypotheses, or the error. ``change``: of the generator, before it decodes."""
    extra = {"lm_model": lm, "lm_weight": 0.3} if lm is not None else None
    try:
        generator = task.build_generator(models, argparse.Namespace(**options), extra_gen_cls_kwargs=extra)
        change(generator)
        return task.inference_step(generator, models, *sample)
    except FAILURES as error:
        return error


def alone_by_stock(models: list, options: dict, sample: tuple, lm: Any, change: Any) -> list:
    """The hypotheses, or the error, of each sentence."""
    found = []
    for i in range(len(sample[0]["id"])):
        torch.manual_seed(sentence_seed(SEED, NUMBERS[i]))
        result = decode(TinyTask(WORDS), copy.deepcopy(models), options, one_of(sample, i), lm, change)
        found.append(result if isinstance(result, Exception) else result[0])
    return found


def together(models: list, options: dict, sample: tuple, lm: Any, config: Any, change: Any) -> Any:
    def set_alone(generator: Any) -> None:
        generator.alone, generator.seed = True, SEED
        change(generator)

    numbered = {**sample[0], "id": torch.tensor(NUMBERS[: len(sample[0]["id"])])}
    before = torch.get_rng_state()
    found = decode(TinyELTask(WORDS, config), models, options, (numbered, *sample[1:]), lm, set_alone)
    assert torch.equal(before, torch.get_rng_state())
    return found


def assert_alone(mine: Any, theirs: list) -> None:
    errors = [each for each in theirs if isinstance(each, Exception)]
    if errors or isinstance(mine, Exception):
        no_word = isinstance(mine, NoHypothesisError) and any("multinomial" in str(error) for error in errors)
        assert no_word or any(isinstance(mine, type(error)) for error in errors), (mine, theirs)
        return
    for my_hypotheses, their_hypotheses in zip(mine, theirs):
        assert [h["tokens"].tolist() for h in my_hypotheses] == [h["tokens"].tolist() for h in their_hypotheses]
        for my, their in zip(my_hypotheses, their_hypotheses):
            summed = float(their["positional_scores"].double().abs().nan_to_num(posinf=0.0).sum())
            for key in ("score", "positional_scores"):
                torch.testing.assert_close(my[key], their[key], rtol=1e-6, atol=max(1e-6, 2**-22 * summed))
            if isinstance(their["alignment"], list):  # soft: texts of six digits
                assert len(my["alignment"]) == len(their["alignment"])
                for my_row, their_row in zip(my["alignment"], their["alignment"]):
                    assert list(map(float, my_row)) == pytest.approx(list(map(float, their_row)), abs=2e-6)
    assert len(mine) == len(theirs)


def check(data: Any, models: list, options: dict, lm: Any = None, sample: Any = None) -> None:
    sample = sample or data.draw(samples(constrained="constraints" in options))
    mends = sample[1] is None and options["no_repeat_ngram_size"] > 1  # stock blocks no n-gram, and prefixes may repeat

    def change(generator: Any) -> None:
        if mends and generator.repeat_ngram_blocker is not None:
            generator.repeat_ngram_blocker = GivenWordsSoFar(options["no_repeat_ngram_size"])

    config = data.draw(el_options())
    config.el_ngram_blocking = "all" if mends else "stock"
    expected = alone_by_stock(models, options, sample, lm, change)
    assert_alone(together(models, options, sample, lm, config, change if mends else lambda generator: None), expected)


@pytest.mark.parametrize("part", range(2))
@settings(max_examples=CASES)
@given(data=st.data())
def test_one_model(part, data):
    data.draw(st.just(part))
    check(data, [make_model(data.draw(model_options()))], data.draw(generation_options()))


@pytest.mark.parametrize(
    "search",
    [
        {},
        {"sampling": True},
        {"sampling": True, "sampling_topk": 3},
        {"sampling": True, "sampling_topp": 0.7},
        {"diverse_beam_groups": 2, "diverse_beam_strength": 0.5},
        {"diversity_rate": 0.5},
        {"constraints": "ordered"},
        {"constraints": "unordered"},
        {"match_source_len": True},
    ],
    ids=str,
)
@settings(max_examples=max(CASES // 3, 2))
@given(data=st.data())
def test_every_search(search, data):
    options = {"beam": 4, "max_len_a": 0.8, "max_len_b": 2, "min_len": 2, "no_repeat_ngram_size": 0, "lenpen": 0.6}
    check(data, [make_model(data.draw(model_options()))], {**options, **search})


@settings(max_examples=CASES)
@given(data=st.data())
def test_ensembles_and_language_model_fusion(data):
    models = [make_model(data.draw(model_options())) for _ in range(data.draw(st.integers(1, 2)))]
    lm = data.draw(st.sampled_from([build_language_model(WORDS, seed=5), None]))
    check(data, models, data.draw(generation_options()), lm)


@settings(max_examples=CASES)
@given(data=st.data())
def test_retained_dropout(data):
    """Random numbers are drawn for the whole batch, so that it is decoded again, one by one."""
    model = make_model(data.draw(model_options()))
    for module in model.decoder.modules():
        if hasattr(module, "apply_during_inference"):
            module.apply_during_inference = True
    check(data, [model], data.draw(generation_options()))


@settings(max_examples=CASES)
@given(data=st.data())
def test_language_models_continue_prompts(data):
    lengths = data.draw(st.lists(st.integers(0, 8), min_size=1, max_size=4))
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 10**6)))
    prompts = torch.randint(4, len(WORDS), (len(lengths), max(lengths)), generator=generator)
    prompts[torch.arange(max(lengths)) >= torch.tensor(lengths).unsqueeze(1)] = WORDS.pad()
    begun = torch.cat([torch.full((len(lengths), 1), WORDS.eos()), prompts], dim=1)
    batch_ = {"id": torch.arange(len(lengths)), "net_input": {"src_tokens": begun, "src_lengths": begun.ne(1).sum(1)}}
    options = {**data.draw(generation_options()), "print_alignment": None}
    options.pop("constraints", None)
    check(data, [data.draw(language_models())], options, sample=(batch_, prompts, None))


def both(model: Any, make: Any, sample: tuple) -> tuple[Any, list]:
    """Hypotheses of an EL generator for the batch, and of stock's for each sentence.

    Args:
        make: makes a generator of a class, for a model.
    """
    mine = make(ELSequenceGenerator, fairseq_el.enable_el_attention(copy.deepcopy(model)))
    mine.alone, mine.seed = True, SEED
    numbered = {**sample[0], "id": torch.tensor(NUMBERS[: len(sample[0]["id"])])}
    theirs = []
    for i in range(len(sample[0]["id"])):
        torch.manual_seed(sentence_seed(SEED, NUMBERS[i]))
        one, prefix, _ = one_of(sample, i)
        one["id"] = numbered["id"][[i]]
        theirs += make(SequenceGenerator, model).generate(None, one, prefix_tokens=prefix)
    return mine.generate(None, numbered, prefix_tokens=sample[1]), theirs


def test_prefix_constrained_search():
    """It stops at the longest output, of each sentence by itself, and is told a sentence's number in the data."""
    model = build_model("transformer", WORDS, seed=2)

    def allowed(sentence, words):
        even = [word for word in range(4, len(WORDS)) if word % 2 == 0]
        return [*even, WORDS.eos()] if sentence % 2 else even  # sentences with even numbers never end

    def make(cls, model):
        search = PrefixConstrainedBeamSearch(WORDS, allowed)
        return cls([model], WORDS, beam_size=3, max_len_a=1, max_len_b=1, search_strategy=search)

    mine, theirs = both(model, make, (batch(WORDS, [2, 9, 5, 7], seed=1), None, None))
    assert_alone(mine, theirs)
    assert [len(found) for found in mine] == [3, 0, 0, 3]


def test_what_a_prefix_of_another_sentence_decides_in_stock():
    """Until the longest prefix of its batch ends, stock lets a sentence end early, and write suppressed words."""
    prefix = torch.full((3, 5), WORDS.pad())
    prefix[0, :1], prefix[1], prefix[2, :3] = 5, torch.tensor([6, 7, 8, 9, 10]), torch.tensor([4, 6, 5])
    sample = (batch(WORDS, [3, 4, 6], seed=1), prefix, None)

    def make(cls, model):
        return cls([model], WORDS, beam_size=3, max_len_a=0, max_len_b=7, min_len=4, tokens_to_suppress=("w3", "w9"))

    num_decided = 0
    for seed in range(6):
        model = build_model("transformer", WORDS, seed=seed)
        mine, theirs = both(model, make, sample)
        assert_alone(mine, theirs)
        in_one_batch = make(SequenceGenerator, model).generate(None, sample[0], prefix_tokens=prefix)
        num_decided += in_one_batch[0][0]["tokens"].tolist() != theirs[0][0]["tokens"].tolist()
    assert num_decided > 0


@pytest.mark.parametrize("ngrams", [0, 2])
def test_prefixes_that_are_longer_than_a_sentence_may_be_or_end_it(ngrams):
    model = build_model("transformer", WORDS, seed=4)
    prefix = torch.randint(4, len(WORDS), (4, 6), generator=torch.Generator().manual_seed(1))
    prefix[1, 2], prefix[1, 3:] = WORDS.eos(), WORDS.pad()
    sample = (batch(WORDS, [3, 4, 9, 1], seed=1), prefix, None)

    def make(cls, model):
        return cls([model], WORDS, beam_size=3, max_len_a=0.7, max_len_b=1, no_repeat_ngram_size=ngrams)

    assert_alone(*both(model, make, sample))


def test_a_prefix_that_can_not_be_read_at_once_changes_no_other_sentence():
    """With it, a batch's forced words must not repeat an n-gram; without, they may."""
    model = fairseq_el.enable_el_attention(build_model("transformer", WORDS, seed=4))
    prefix = torch.tensor([[5, 5, 5, 5], [6, 7, WORDS.eos(), WORDS.pad()]])
    sample = batch(WORDS, [3, 4], seed=1)

    def tokens(sample, prefix, alone):
        generator = ELSequenceGenerator([model], WORDS, beam_size=2, max_len_b=8, no_repeat_ngram_size=2)
        generator.alone = alone
        return [h["tokens"].tolist() for h in generator.generate(None, sample, prefix_tokens=prefix)[0]]

    first, first_prefix, _ = one_of((sample, prefix, None), 0)
    assert tokens(sample, prefix, alone=True) == tokens(first, first_prefix, alone=False)
    assert tokens(sample, prefix, alone=True)[0][:4] == [5, 5, 5, 5]


def test_the_rules_of_transformers():
    """Sentences are decoded as one by one already, but for the longest output."""
    model = build_model("transformer", WORDS, seed=4)
    sample = (batch(WORDS, [3, 9, 6], seed=1), None, None)

    def make(cls, model):
        generator = ELSequenceGenerator([model], WORDS, beam_size=3, max_len_a=0.5, max_len_b=1)
        generator.transformers_rules = TransformersRules(forced_last=WORDS.eos())
        return generator

    mine, theirs = both(model, make, sample)
    assert_alone(mine, theirs)
    assert len({max(len(h["tokens"]) for h in found) for found in mine}) > 1


@pytest.mark.parametrize(("at_least", "at_most"), [(3, 4), (None, 3), (2, None)])
def test_limits_of_new_words(at_least, at_most):
    model = build_language_model(WORDS, seed=4)
    prompts = torch.tensor([[5, 6, 7, 8, 9], [4, 1, 1, 1, 1], [7, 6, 5, 1, 1]])
    begun = torch.cat([torch.full((3, 1), WORDS.eos()), prompts], dim=1)
    net_input = {"src_tokens": begun, "src_lengths": begun.ne(1).sum(1)}

    def make(cls, model):
        generator = ELSequenceGenerator([model], WORDS, beam_size=3, max_len_a=1, max_len_b=4)
        generator.min_new_tokens, generator.max_new_tokens = at_least, at_most
        return generator

    assert_alone(*both(model, make, ({"id": torch.arange(3), "net_input": net_input}, prompts, None)))


def test_a_batch_that_does_not_fit_into_memory_draws_the_same_samples():
    model = fairseq_el.enable_el_attention(build_model("transformer", WORDS, seed=4))
    sample = batch(WORDS, [3, 9, 6, 4], seed=1)

    def samples_of(fits):
        options = argparse.Namespace(sampling=True, beam=2, max_len_a=0.5, max_len_b=6)
        generator = TinyELTask(WORDS, argparse.Namespace()).build_generator([model], options)
        generator.alone = True
        whole = generator._decode

        def decode(sample, **options):
            if len(sample["id"]) > fits:
                raise RuntimeError("CUDA out of memory")
            return whole(sample, **options)

        generator.__dict__["_decode"] = decode
        return [[h["tokens"].tolist() for h in each] for each in generator.generate([model], sample)]

    assert samples_of(1) == samples_of(2) == samples_of(4)


def test_samples_do_not_depend_on_order_or_batch():
    model = build_model("transformer", WORDS, seed=4)
    sources = batch(WORDS, [3, 9, 6, 4], seed=1)["net_input"]["src_tokens"]

    def samples_of(rows, seed=SEED):
        options = argparse.Namespace(sampling=True, beam=2, max_len_b=6)
        generator = TinyELTask(WORDS, argparse.Namespace()).build_generator([model], options)
        generator.alone, generator.seed = True, seed
        chosen = sources[rows]
        net_input = {"src_tokens": chosen, "src_lengths": chosen.ne(WORDS.pad()).sum(1)}
        found = generator.generate([model], {"id": torch.tensor(rows), "net_input": net_input})
        return {row: [h["tokens"].tolist() for h in each] for row, each in zip(rows, found)}

    whole = samples_of([0, 1, 2, 3])
    assert samples_of([3, 1]) == {3: whole[3], 1: whole[1]}
    assert samples_of([2]) == {2: whole[2]}
    assert samples_of([0, 1, 2, 3], seed=4) != whole


def test_a_hook_that_draws_is_noticed():
    model = build_model("transformer", WORDS, seed=4)
    calls = []

    def noise(module, inputs, output):
        calls.append(output.size(0))
        return output + torch.rand(1).double()

    model.decoder.embed_tokens.register_forward_hook(noise)
    sample = (batch(WORDS, [3, 9, 6], seed=1), None, None)
    mine, theirs = both(model, lambda cls, model: cls([model], WORDS, beam_size=2, max_len_b=5), sample)
    assert_alone(mine, theirs)
    assert max(calls) == 6  # once together, as nothing is known of the hook


def test_seeds():
    seeds = {sentence_seed(seed, number) for seed in range(3) for number in range(100)}
    assert len(seeds) == 300 and all(0 <= seed < 2**32 for seed in seeds)
    assert sentence_seed(1, 5) == sentence_seed(1, 5)


def test_where_even_the_shortest_output_is_too_long_for_one_sentence():
    model = build_model("transformer", WORDS, seed=4)
    generator = ELSequenceGenerator([model], WORDS, max_len_a=1, max_len_b=0, min_len=4)
    generator.generate([model], batch(WORDS, [3, 9], seed=1))
    generator.alone = True
    with pytest.raises(AssertionError, match="--min-len must not be larger than the longest output; it is 4"):
        generator.generate([model], batch(WORDS, [3, 9], seed=1))
