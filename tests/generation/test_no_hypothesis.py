"""Sentences without a hypothesis: which, why, and what to try. Stock says no more than ``AssertionError: 6 < 6``."""

from __future__ import annotations

import argparse
import math

import pytest
import torch
from fairseq.token_generation_constraints import pack_constraints
from tiny import TinyELTask, TinyTask, batch, build_language_model, build_model, dictionary

import fairseq_el
from fairseq_el.errors import ConstraintsError, LengthLimitsError, NoHypothesisError
from fairseq_el.generation import ELSequenceGenerator, TransformersRules

pytestmark = pytest.mark.usefixtures("both_ways")

WORDS = dictionary()
NAN = float("nan")


def failure(model, kind=NoHypothesisError, sample=None, given=None, more=None, **options):
    """What is said about a batch that stock refuses with the same kind of error."""
    sample = batch(WORDS, [5, 3, 2], seed=3) if sample is None else sample
    args = argparse.Namespace(**{"beam": 3, "max_len_b": 6, **options})
    errors = []
    for task in (TinyTask(WORDS), TinyELTask(WORDS)):
        torch.manual_seed(1)
        generator = task.build_generator([model], args, **(more or {}))
        with pytest.raises((AssertionError, NotImplementedError, RuntimeError)) as caught:
            generator.generate([model], sample, **(given or {}))
        errors.append(caught.value)
    assert type(errors[1]) is kind and "\n" not in str(errors[1])
    assert isinstance(errors[1], type(errors[0])) or options.get("sampling")
    return str(errors[1])


def numbers(sample):
    return ", ".join(str(int(number)) for number in sample["id"])


def test_weights_that_are_not_numbers():
    model = build_model("transformer", WORDS, seed=1)
    model.decoder.layers[1].fc1.weight.data[0, :2] = NAN
    model.decoder.layers[1].fc2.bias.data[0] = math.inf
    sample = batch(WORDS, [5, 3, 2], seed=3)
    assert failure(model, sample=sample) == (
        f"Sentences {numbers(sample)} of the data have no hypothesis: the scores of word 1 are not numbers (NaN). The "
        "model's decoder.layers.1.fc1.weight and 1 other tensor hold NaN or infinity (the first: 2 of 384 numbers): "
        "the checkpoint is damaged. Copy, convert or train it again."
    )


def test_one_sentence_of_a_batch():
    """Its encoder output overflows, because of a word that no other sentence has."""
    model = build_model("transformer", WORDS, seed=1, share_all_embeddings=False)
    sample = batch(WORDS, [5, 3, 2], seed=3)
    sample["id"] += 40
    sample["net_input"]["src_tokens"][1] = sample["net_input"]["src_tokens"][1].masked_fill(
        sample["net_input"]["src_tokens"][1].ne(WORDS.pad()), 19
    )
    others = sample["net_input"]["src_tokens"][[0, 2]]
    others[others == 19] = 18
    sample["net_input"]["src_tokens"][[0, 2]] = others
    model.encoder.embed_tokens.weight.data[19] = 1e308
    assert failure(model, sample=sample) == (
        f"Sentence {int(sample['id'][1])} of the data has no hypothesis: the encoder's output and the scores of word 1 "
        "are not numbers (NaN). All weights are finite, so numbers have grown beyond float64 on their way through the "
        "model. Compare with --el-dtype fp64, and check that checkpoint and architecture belong together."
    )


TRY = "decode without --fp16, or with --el-dtype fp32 or bf16"


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (
            1e30,
            "The model's encoder.layers.0.fc1.weight holds NaN or infinity (1 of 384 numbers). If they were larger "
            f"than fp16 can hold, 65,504, {TRY}; else the checkpoint is damaged.",
        ),
        (None, f"All weights are finite, so numbers have likely grown beyond fp16's largest, 65,504: {TRY}."),
    ],
)
def test_overflow_of_fp16(damage, expected):
    model = build_model("transformer", WORDS, seed=1, dtype=torch.float32)
    if damage is None:
        model.encoder.layers[0].fc2.weight.data *= 6e4
        model.encoder.layers[1].fc1.weight.data *= 6e4
        model.encoder.layers[0].final_layer_norm.weight.data *= 6e4
    else:
        model.encoder.layers[0].fc1.weight.data[0, 0] = damage
    try:
        model = model.half()
        model.encoder.layers[0].fc1(torch.zeros(1, 16, dtype=torch.float16))
        message = failure(model)
    except RuntimeError as error:
        pytest.skip(f"torch {torch.__version__} does not decode in fp16 on a CPU: {error}")
    assert message.endswith(expected)
    assert "the encoder's output and the scores of word 1 are not numbers (NaN). " in message


def test_nan_in_later_words():
    """Sources and first words are fine: the position embeddings of a damaged checkpoint end too early."""
    model = build_model("transformer", WORDS, seed=1, decoder_learned_pos=True)
    model.decoder.embed_positions.weight.data[WORDS.pad() + 4 :] = NAN
    message = failure(model, min_len=5)
    assert "no hypothesis: the scores of word 4 are not numbers (NaN). The model's decoder.embed_positions" in message


def test_nan_of_a_language_model_that_is_fused():
    language_model = build_language_model(WORDS, seed=1)
    language_model.decoder.layers[0].fc1.bias.data[3] = NAN
    more = {"extra_gen_cls_kwargs": {"lm_model": language_model, "lm_weight": 0.3}}
    message = failure(build_model("transformer", WORDS, seed=1), more=more)
    assert "not numbers (NaN). The model's decoder.layers.0.fc1.bias holds NaN or infinity (1 of 24 num" in message


@pytest.mark.parametrize(
    "options", [{"sampling": True}, {"sampling": True, "sampling_topk": 3}, {"diversity_rate": 0.5}]
)
def test_nan_in_other_searches(options):
    model = build_model("transformer", WORDS, seed=1)
    model.decoder.layers[0].fc1.bias.data[3] = NAN
    assert "The model's decoder.layers.0.fc1.bias holds NaN" in failure(model, **options)


def test_numbers_of_diverse_beam_search_are_those_of_the_data():
    model, sample = build_model("transformer", WORDS, seed=1), batch(WORDS, [5, 3, 2], seed=3)
    model.decoder.layers[0].fc1.bias.data[3] = NAN
    generator = TinyELTask(WORDS).build_generator(
        [model], argparse.Namespace(beam=4, max_len_b=6, diverse_beam_groups=2)
    )
    sample["id"] += 70
    with pytest.raises(NoHypothesisError, match=f"^Sentences {numbers(sample)} of the data have no hypothesis"):
        generator.generate([model], sample)


def test_blocking_every_ngram():
    model = fairseq_el.enable_el_attention(build_model("transformer", WORDS, seed=1))
    generator = ELSequenceGenerator([model], WORDS, beam_size=2, max_len_b=30, min_len=20, no_repeat_ngram_size=1)
    with pytest.raises(NoHypothesisError) as caught:
        generator.generate([model], batch(WORDS, [4], seed=3))
    assert str(caught.value) == (
        "Sentence 0 of the data has no hypothesis: no word is left after 18: --min-len 20 forbids the end before; "
        "--no-repeat-ngram-size 1 forbids what would repeat. Loosen one of these."
    )


def test_a_prefix_that_repeats_an_ngram_and_ends():
    model = fairseq_el.enable_el_attention(build_model("transformer", WORDS, seed=1))
    generator = ELSequenceGenerator([model], WORDS, beam_size=2, max_len_b=9, no_repeat_ngram_size=2)
    prefix = torch.tensor([[6, 7, 6, 7, 8, 2], [8, 9, 10, 11, 12, 13]])
    with pytest.raises(NoHypothesisError) as caught:
        generator.generate([model], batch(WORDS, [4, 3], seed=3), prefix_tokens=prefix)
    assert "no word is left after 3: its prefix forces this word; --no-repeat-ngram-size 2 forbids" in str(caught.value)


def test_constraints_that_are_longer_than_outputs():
    model = build_model("transformer", WORDS, seed=1)
    constraints = pack_constraints([[torch.tensor([5, 6, 7, 8])]])
    message = failure(
        model, sample=batch(WORDS, [4], seed=3), given={"constraints": constraints}, constraints="ordered", max_len_b=2
    )
    assert message == (
        "Sentence 0 of the data has no hypothesis: no word is left after 2: after 2 words only the end may follow "
        "(--max-len-a, --max-len-b); --constraints forbids the end before all are there. Loosen one of these."
    )


def test_words_that_nobody_may_write():
    model = build_model("transformer", WORDS, seed=1)
    every = [WORDS[i] for i in (0, *range(4, len(WORDS)))]
    more = {"extra_gen_cls_kwargs": {"tokens_to_suppress": every}}
    message = failure(model, more=more, min_len=2, unkpen=math.inf)
    assert "no word is left after 0: --min-len 2 forbids the end before; tokens_to_suppress forbids 17 words" in message


EVERY = tuple((word,) for word in range(len(WORDS)))
AFTER_8 = tuple((8, word) for word in range(len(WORDS)))


@pytest.mark.parametrize(
    ("rules", "options", "expected"),
    [
        (
            {"forbidden": EVERY},
            {},
            "no word is left after 0: --min-len 1 forbids the end before; --el-forbidden forbids 20 words or sequences",
        ),
        (
            {"forced_first": 5, "forbidden_first": tuple(range(len(WORDS)))},
            {},
            "no word is left after 1: --el-forbidden-first forbids 20 words here. Loosen one of these.",
        ),
        (
            {},
            {"no_repeat_ngram_size": 1, "min_len": 25, "max_len_b": 30},
            "no word is left after 18: --min-len 25 forbids the end before; --no-repeat-ngram-size 1 forbids what",
        ),
    ],
)
def test_rules_of_transformers(rules, options, expected):
    with pytest.raises(NoHypothesisError) as caught:
        as_transformers(TransformersRules(**rules), build_model("transformer", WORDS, seed=1), options)
    assert f"have no hypothesis: {expected}" in str(caught.value) and "\n" not in str(caught.value)


def as_transformers(rules, model, options, sample=None, new_tokens=None, **given):
    args = argparse.Namespace(**{"beam": 3, "max_len_b": 6, **options})
    generator = TinyELTask(WORDS).build_generator([model], args)
    generator.transformers_rules, generator.min_new_tokens = rules, new_tokens
    return generator.generate([model], batch(WORDS, [5, 3, 2], seed=3) if sample is None else sample, **given)


def test_one_sentence_as_transformers():
    """Its prefix is over, and those of others are not."""
    sample = batch(WORDS, [5, 3, 2], seed=3)
    prefix = torch.tensor([[9, 7], [8, WORDS.pad()], [5, 6]])
    model, rules = build_model("transformer", WORDS, seed=1), TransformersRules(forbidden=AFTER_8)
    with pytest.raises(NoHypothesisError) as caught:
        as_transformers(rules, model, {}, sample, prefix_tokens=prefix)
    assert str(caught.value) == (
        f"Sentence {int(sample['id'][1])} of the data has no hypothesis: no word is left after 1: --el-forbidden "
        "forbids 20 words or sequences of words. Loosen one of these."
    )


@pytest.mark.parametrize("rules", [None, TransformersRules(continues_prompts=True)], ids=["fairseq", "transformers"])
def test_new_tokens(rules):
    prompts = torch.tensor([[5, 6, 7], [8, WORDS.pad(), WORDS.pad()]])
    source = torch.nn.functional.pad(prompts, (1, 0), value=2)
    sample = {"id": torch.arange(2), "net_input": {"src_tokens": source, "src_lengths": source.ne(1).sum(dim=1)}}
    options = {"no_repeat_ngram_size": 1, "max_len_b": 40}
    with pytest.raises(NoHypothesisError) as caught:
        as_transformers(rules, build_language_model(WORDS, seed=1), options, sample, 25, prefix_tokens=prompts)
    assert str(caught.value).endswith(
        "no word is left after 18: --el-min-new-tokens 25 forbids the end before; --no-repeat-ngram-size 1 forbids "
        "what would repeat. Loosen one of these."
    )


def test_an_empty_prompt_with_one_new_token():
    """Beside a prompt that is not: its only word would be the end, and that may not be the first."""
    prompts = torch.tensor([[5, 6], [WORDS.pad(), WORDS.pad()]])
    source = torch.nn.functional.pad(prompts, (1, 0), value=2)
    sample = {"id": torch.arange(2), "net_input": {"src_tokens": source, "src_lengths": source.ne(1).sum(dim=1)}}
    model = build_language_model(WORDS, seed=1)
    generator = TinyELTask(WORDS).build_generator([model], argparse.Namespace(beam=2))
    generator.max_new_tokens = 1
    with pytest.raises(NoHypothesisError) as caught:
        generator.generate([model], sample, prefix_tokens=prompts)
    assert str(caught.value) == (
        "Sentence 1 of the data has no hypothesis: no word is left after 0: after 0 words only the end may follow "
        "(--el-max-new-tokens 1); --min-len 1 forbids the end before. Loosen one of these."
    )


def test_many_sentences():
    model, sample = build_model("transformer", WORDS, seed=1), batch(WORDS, [3] * 9, seed=3)
    model.decoder.layers[0].fc1.bias.data[3] = NAN
    listed = ", ".join(str(int(number)) for number in sample["id"][:5])
    assert failure(model, sample=sample).startswith(f"Sentences {listed} and 4 more of the data have no hypothesis: ")


def test_running_out_of_memory_while_it_is_explained():
    """The batch is then decoded, and explained, in halves."""
    model, sample = build_model("transformer", WORDS, seed=1), batch(WORDS, [5, 3], seed=3)
    model.decoder.layers[0].fc1.bias.data[3] = NAN
    generator = TinyELTask(WORDS).build_generator([model], argparse.Namespace(beam=2, max_len_b=6))
    steps = []

    def step(number, states):
        steps.append((number, states[0].num_sentences))
        if steps[-1] == (0, 2) and steps.count((0, 2)) == 2:  # the second time that both are decoded
            raise RuntimeError("CUDA out of memory")

    generator.on_step = step
    with pytest.raises(
        NoHypothesisError, match=f"^Sentence {int(sample['id'][0])} of the data has no hypothesis: the sc"
    ):
        generator.generate([model], sample)
    assert steps.count((0, 2)) == 2 and steps.count((0, 1)) == 2


def test_limits_of_length():
    assert failure(build_model("transformer", WORDS, seed=1), LengthLimitsError, min_len=9, max_len_a=0.5) == (
        "--min-len must not be larger than the longest output; it is 9, and the longest output has 8 words: "
        "--max-len-a 0.5 times the 5 tokens of the longest source of the batch plus --max-len-b 6, and at most 63, "
        "which the decoder can write. Lower --min-len, or raise the limit."
    )


def test_constraints_for_a_search_that_knows_none():
    constraints = pack_constraints([[torch.tensor([5])]] * 3)
    message = failure(build_model("transformer", WORDS, seed=1), ConstraintsError, given={"constraints": constraints})
    assert message.startswith(
        "BeamSearch can't be held to constraints, and the batch has some: decode with --constraints"
    )


def test_nothing_is_watched_while_all_is_well(monkeypatch):
    from fairseq_el.generation import generator as module

    monkeypatch.setattr(module, "explain", None)
    model = fairseq_el.enable_el_attention(build_model("transformer", WORDS, seed=1))
    assert ELSequenceGenerator([model], WORDS, beam_size=2).generate([model], batch(WORDS, [4], seed=3))
