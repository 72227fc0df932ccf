"""Batches that run out of memory somewhere, at any call into torch, and get the hypotheses of the whole batch."""

from __future__ import annotations

import argparse
import copy
import dataclasses
import itertools
import sys
import weakref
from typing import Any

import pytest
import torch
from fairseq.sequence_generator import SequenceGenerator
from hypothesis import given, settings
from hypothesis import strategies as st
from test_against_stock import (
    CASES_PER_TEST,
    WORDS,
    assert_same,
    el_options,
    generation_options,
    language_models,
    make_model,
    model_options,
    run,
    samples,
)
from tiny import TinyELTask, TinyTask, batch, build_language_model, build_model

import fairseq_el
from fairseq_el.generation import ELSequenceGenerator, TransformersRules
from fairseq_el.generation.failures import out_of_memory

pytestmark = pytest.mark.usefixtures("both_ways")

MESSAGE = "CUDA out of memory. Tried to allocate 2 GiB"
SOME = {"beam_size": 3, "max_len_b": 8}


@pytest.fixture(autouse=True)
def no_garbage_collection(monkeypatch):
    """It takes longer than everything else, and memory is free without: see test_memory_is_free."""
    monkeypatch.setattr(out_of_memory.gc, "collect", lambda: 0)


def is_torchs(function: Any) -> bool:
    owner = getattr(function, "__self__", None)
    if isinstance(owner, torch.Tensor):
        return True
    owner = owner if isinstance(owner, type) else function
    return str(getattr(owner, "__module__", "")).startswith("torch")


class FailingMemory:
    """Makes a generator's attempts fail at a call into torch, where they have more sentences than fit.

    Attributes:
        tried: sentences of each attempt.
        failures: how many attempts have failed.
    """

    def __init__(self, generator: Any, fits: int, place: float, error: Any = None, method: str = "_decode"):
        """``place``: of the failing call among those of a whole batch, from 0 to 1."""
        self.fits, self.place, self.error = fits, place, error or RuntimeError(MESSAGE)
        self.tried: list[int] = []
        self.failures = 0
        self.calls_of_whole: int | None = None
        self._decode = getattr(generator, method)
        generator.__dict__[method] = self.attempt

    def attempt(self, sample: Any, *args: Any, **options: Any) -> Any:
        num_sentences = sample["net_input"]["src_tokens"].size(0)
        if self.calls_of_whole is None:
            self.calls_of_whole = self._profiled(10**9, copy.deepcopy(sample), args, copy.deepcopy(options))[0]
        self.tried.append(num_sentences)
        if num_sentences <= self.fits:
            return self._decode(sample, *args, **options)
        return self._profiled(1 + int(self.place * self.calls_of_whole), sample, args, options)[1]

    def _profiled(self, fails_at: int, sample: Any, args: Any, options: Any) -> tuple[int, Any]:
        count = 0

        def profile(frame: Any, event: str, function: Any) -> None:
            nonlocal count
            if event == "c_call" and is_torchs(function):
                count += 1
                if count == fails_at:
                    self.failures += 1
                    raise self.error

        state = torch.get_rng_state()
        sys.setprofile(profile)
        try:
            result = self._decode(sample, *args, **options)
        finally:
            sys.setprofile(None)
        if fails_at == 10**9:
            torch.set_rng_state(state)
        return count, result


class FailingTask(TinyELTask):
    """Its generators run out of memory with more than ``fits`` sentences."""

    def __init__(self, config: Any, fits: int, place: float):
        super().__init__(WORDS, config)
        self.fits, self.place = fits, place

    def build_generator(self, models: Any, args: Any, **kwargs: Any) -> Any:
        generator = super().build_generator(models, args, **kwargs)
        self.memory = FailingMemory(generator, self.fits, self.place)
        return generator


def check(data: Any, models: list, options: dict, sample: Any, language_model: Any = None) -> None:
    _, expected = run(TinyTask(WORDS), copy.deepcopy(models), options, copy.deepcopy(sample), language_model, seed=7)
    fits = data.draw(st.integers(1, 3))
    task = FailingTask(data.draw(el_options()), fits, place=data.draw(st.floats(0, 0.99)))
    _, mine = run(task, models, options, sample, language_model, seed=7)
    assert_same(mine, expected)
    if not isinstance(expected, Exception):
        assert (task.memory.failures > 0) == (len(expected) > fits)


def searches(data: Any) -> dict:
    """Options of a search that draws no random numbers."""
    options = data.draw(generation_options())
    return {name: value for name, value in options.items() if not name.startswith("sampling")}


def numbered_in_order(sample: Any) -> Any:
    """Stock's diverse search mixes up the sentences of a batch whose numbers are 0, 1, 2, ... in another order."""
    return ({**sample[0], "id": torch.arange(len(sample[0]["id"]))}, *sample[1:])


@settings(max_examples=max(CASES_PER_TEST // 4, 1))
@given(data=st.data())
def test_any_model_and_search(data):
    options = searches(data)
    models = [make_model(data.draw(model_options())) for _ in range(data.draw(st.sampled_from([1, 1, 2])))]
    language_model = build_language_model(WORDS, seed=1) if data.draw(st.booleans()) else None
    sample = data.draw(samples(constrained="constraints" in options))
    sample = numbered_in_order(sample) if "diverse_beam_groups" in options else sample
    check(data, models, options, sample, language_model)


@settings(max_examples=max(CASES_PER_TEST // 8, 1))
@given(data=st.data())
def test_prompts_of_language_models(data):
    options = {**searches(data), "print_alignment": None, "max_len_b": 12}
    options.pop("constraints", None)
    lengths = data.draw(st.lists(st.integers(0, 8), min_size=1, max_size=5))
    prompts = torch.randint(4, len(WORDS), (len(lengths), max(lengths)), generator=torch.Generator().manual_seed(1))
    prompts[torch.arange(max(lengths)) >= torch.tensor(lengths).unsqueeze(1)] = WORDS.pad()
    begun = torch.cat([torch.full((len(lengths), 1), WORDS.eos()), prompts], dim=1)
    sample = {"id": torch.arange(len(lengths)), "net_input": {"src_tokens": begun, "src_lengths": begun.ne(1).sum(1)}}
    check(data, [data.draw(language_models())], options, (sample, prompts, None))


@st.composite
def transformers_rules(draw: Any, continues_prompts: bool) -> TransformersRules:
    symbols = st.integers(4, len(WORDS) - 1)
    return TransformersRules(
        early_stopping=draw(st.sampled_from([True, False, "never"])),
        forced_first=draw(st.sampled_from([None, 0, 7])),
        forced_last=draw(st.sampled_from([None, WORDS.eos()])),
        forbidden=tuple(draw(st.lists(st.lists(symbols, min_size=1, max_size=2).map(tuple), max_size=3))),
        forbidden_first=tuple(draw(st.lists(symbols, max_size=2))),
        continues_prompts=continues_prompts,
    )


def check_against_whole(data: Any, models: list, options: dict, given: dict, settings: dict, sample: Any) -> None:
    """A generator with settings that stock does not have, against itself with memory for everything."""
    task = TinyELTask(WORDS, data.draw(el_options()))
    fits, place = data.draw(st.integers(1, 3)), data.draw(st.floats(0, 0.99))
    error = data.draw(st.sampled_from([RuntimeError(MESSAGE), MemoryError()]))
    results, memory = [], None
    for has_memory in (True, False):
        generator = task.build_generator(models, argparse.Namespace(**options))
        vars(generator).update(settings)
        if not has_memory:
            memory = FailingMemory(generator, fits, place, error)
        try:
            results.append(generator.generate(models, copy.deepcopy(sample), **given))
        except (AssertionError, ValueError) as failure:
            results.append(failure)
    whole, parts = results
    if isinstance(whole, Exception):
        assert type(parts) is type(whole)
        return
    assert [[h["tokens"].tolist() for h in found] for found in parts] == [
        [h["tokens"].tolist() for h in found] for found in whole
    ]
    for found, expected in zip(itertools.chain(*parts), itertools.chain(*whole)):
        torch.testing.assert_close(found["score"], expected["score"], rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(found["attention"], expected["attention"], rtol=1e-6, atol=1e-6)
    assert memory is not None and (memory.failures > 0) == (len(whole) > fits)


def plain_searches(data: Any) -> dict:
    options = searches(data)
    for name in ("diverse_beam_groups", "diverse_beam_strength", "diversity_rate", "constraints", "match_source_len"):
        options.pop(name, None)
    return {**options, "print_alignment": None}


@settings(max_examples=max(CASES_PER_TEST // 8, 1))
@given(data=st.data())
def test_search_as_transformers_with_a_first_symbol_for_each_sentence(data):
    models = [make_model(data.draw(model_options())) for _ in range(data.draw(st.sampled_from([1, 1, 2])))]
    sample, prefix, _ = data.draw(samples(constrained=False))
    first = data.draw(st.sampled_from([None, 5, torch.arange(4, 4 + len(sample["id"]))]))
    rules = data.draw(transformers_rules(continues_prompts=False))
    prefix = None if rules.forced_first is not None else prefix
    given = {"prefix_tokens": prefix, "bos_token": first}
    check_against_whole(data, models, plain_searches(data), given, {"transformers_rules": rules}, sample)


@settings(max_examples=max(CASES_PER_TEST // 4, 1))
@given(data=st.data())
def test_limits_of_new_tokens_after_prompts(data):
    lengths = data.draw(st.lists(st.integers(0, 8), min_size=1, max_size=5))
    seeded = torch.Generator().manual_seed(data.draw(st.integers(0, 99)))
    prompts = torch.randint(4, len(WORDS), (len(lengths), max(lengths)), generator=seeded)
    prompts[torch.arange(max(lengths)) >= torch.tensor(lengths).unsqueeze(1)] = WORDS.pad()
    begun = torch.cat([torch.full((len(lengths), 1), WORDS.eos()), prompts], dim=1)
    sample = {"id": torch.arange(len(lengths)), "net_input": {"src_tokens": begun, "src_lengths": begun.ne(1).sum(1)}}
    as_transformers = data.draw(st.booleans())
    if as_transformers:
        options, rules = plain_searches(data), data.draw(transformers_rules(continues_prompts=True))
        rules = dataclasses.replace(rules, forced_first=None)
    else:
        options, rules = {**searches(data), "print_alignment": None}, None
        options.pop("constraints", None)
        options.pop("match_source_len", None)
    at_least = data.draw(st.sampled_from([None, 1, 3]))
    limits = {
        "transformers_rules": rules,
        "min_new_tokens": at_least,
        "max_new_tokens": data.draw(st.sampled_from([None, 3, 5, 60])),
    }
    first = data.draw(st.sampled_from([None, torch.arange(4, 4 + len(lengths))]))
    given = {"prefix_tokens": prompts, "bos_token": first}
    check_against_whole(data, [data.draw(language_models())], {**options, "max_len_b": 12}, given, limits, sample)


def el_model(**options: Any) -> Any:
    return fairseq_el.enable_el_attention(build_model("transformer", WORDS, seed=1, **options))


def tokens(finalized: Any) -> list:
    return [[hypothesis["tokens"].tolist() for hypothesis in hypotheses] for hypotheses in finalized]


def test_one_prefix_that_can_not_be_read_at_once_decides_for_its_batch():
    """The last has an end in it. So n-grams are blocked in all prefixes, which leaves the first sentence no word."""
    model, sample = el_model(), batch(WORDS, [5, 4, 3, 2], seed=3)
    prefix = torch.tensor([[6, 7, 6, 7], [8, 9, 10, 11], [5, 6, 7, 8], [9, 2, 1, 1]])
    generator = ELSequenceGenerator([model], WORDS, no_repeat_ngram_size=2, **SOME)
    with pytest.raises(AssertionError) as whole:
        generator.generate([model], sample, prefix_tokens=prefix)
    generator.__dict__["_decode"] = fails_once(generator._decode)
    with pytest.raises(AssertionError) as in_halves:
        generator.generate([model], sample, prefix_tokens=prefix)
    assert str(in_halves.value) == str(whole.value)


def fails_once(decode: Any) -> Any:
    errors = [RuntimeError(MESSAGE)]

    def attempt(*args: Any, **options: Any) -> Any:
        if errors:
            raise errors.pop()
        return decode(*args, **options)

    return attempt


def test_numbers_of_sentences_are_those_of_the_batch():
    """Where the sample has none, they count through all parts. Seen by ``prefix_allowed_tokens_fn``."""
    seen = []

    def allowed(sentence, words):
        seen.append(int(sentence))
        return [4 + (int(words[-1]) + sentence + i) % 12 for i in range(4)] + [WORDS.eos()]

    model, sample = el_model(), batch(WORDS, [5, 4, 3, 2, 1], seed=3)
    del sample["id"]
    options = argparse.Namespace(beam=3, max_len_b=7)
    generator = TinyELTask(WORDS).build_generator([model], options, prefix_allowed_tokens_fn=allowed)
    expected = tokens(generator.generate([model], sample))
    seen.clear()
    FailingMemory(generator, fits=1, place=0.0)
    assert tokens(generator.generate([model], sample)) == expected and set(seen) == {0, 1, 2, 3, 4}


def test_alignment_that_does_not_fit():
    """``--print-alignment`` runs the decoder over all hypotheses once more."""
    model, sample = el_model(), batch(WORDS, [5, 4, 3, 2, 1], seed=3)
    generator = TinyELTask(WORDS).build_generator(
        [model], argparse.Namespace(beam=3, max_len_b=7, print_alignment="hard")
    )
    generator.record_attention = True
    expected = generator.generate([model], sample)
    memory = FailingMemory(generator, fits=2, place=0.0, method="_prepare_batch_for_alignment")
    assert_same(generator.generate([model], sample), expected)
    assert memory.failures == 2


def test_batches_are_cut_before_they_fail_again_and_shorter_ones_are_not(caplog):
    model = el_model()
    generator = ELSequenceGenerator([model], WORDS, beam_size=2, max_len_a=1, max_len_b=4)
    memory = FailingMemory(generator, fits=3, place=0.5)

    def tried(lengths):
        memory.tried.clear()
        found = tokens(generator.generate([model], batch(WORDS, lengths, seed=3)))
        assert found == tokens(
            SequenceGenerator([model], WORDS, beam_size=2, max_len_a=1, max_len_b=4).generate(
                [model], batch(WORDS, lengths, seed=3)
            )
        )
        return memory.tried

    assert tried([30] * 9) == [9, 5, 3, 2, 4, 2, 2]  # in order; halves of nine are five and four
    assert tried([30] * 9) == [3, 2, 2, 2]  # ... and four, as has been seen, is too many
    assert tried([32] * 9) == tried([29] * 9) == [3, 2, 2, 2]  # longer, or nearly as long
    assert tried([20] * 3) == [3]
    memory.fits = 9
    assert tried([20] * 9) == [9]  # shorter
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert len(warnings) == 1


def test_the_warning_names_the_batch_size(caplog):
    model = el_model()
    generator = ELSequenceGenerator([model], WORDS, **SOME)
    FailingMemory(generator, fits=2, place=0.5)
    generator.generate([model], batch(WORDS, [7, 6, 5, 4, 3], seed=3))
    (warning,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert warning == (
        "Decoding 5 sentences of up to 7 tokens with beam 3 ran out of memory. Such batches are decoded in smaller "
        "ones, which takes longer. Hypotheses are the same. Batches of 2 fitted: --batch-size 2."
    )


def test_random_numbers_are_drawn_as_if_nothing_had_been_tried(caplog):
    """Part by part, so that samples do not depend on where memory ran out; the warning says that they are others."""
    found = []
    for place in (0.0, 0.4, 0.9):
        model = el_model()
        generator = TinyELTask(WORDS).build_generator([model], argparse.Namespace(beam=3, max_len_b=7, sampling=True))
        FailingMemory(generator, fits=2, place=place)
        torch.manual_seed(5)
        found.append(tokens(generator.generate([model], batch(WORDS, [7, 6, 5, 4], seed=3))))
    assert found[0] == found[1] == found[2]
    assert "Sampled hypotheses and retained dropout are others than those of whole batches." in caplog.text


@pytest.mark.parametrize("kind", ["transformer", "bart_base"])
def test_memory_is_free_before_the_next_attempt(kind, monkeypatch):
    """Nothing of a failed attempt is alive, though its exception went through frames that held it."""
    model = fairseq_el.enable_el_attention(build_model(kind, WORDS, seed=1), backend="shared-kv")
    generator = ELSequenceGenerator([model], WORDS, **SOME)
    alive, dead_at_next = [], []

    def step(number, states):
        if number == 0:
            dead_at_next.append([reference() is None for reference in alive])
            alive.clear()
        if number == 2:
            memory = states[0].source.encoder_out["encoder_out"][0]
            alive.extend(map(weakref.ref, [states[0], states[0].tree.ancestry, memory]))
            if states[0].num_sentences > 1:
                try:
                    raise ValueError("on the way")
                except ValueError as error:
                    raise RuntimeError(MESSAGE) from error

    generator.on_step = step
    generator.generate([model], batch(WORDS, [5, 5, 5, 5], seed=3))
    assert dead_at_next == [[], [True] * 3, [True] * 3, [True] * 3, [True] * 3, [True] * 3][: len(dead_at_next)]
    assert len(dead_at_next) == 6  # of 4, 2, 1, 1, 1, 1 sentences


def test_a_sentence_that_does_not_fit_alone():
    model, sample = el_model(), batch(WORDS, [5, 9, 3], seed=3)
    sample["id"] = sample["id"] + 70
    generator = ELSequenceGenerator([model], WORDS, **SOME)
    memory = FailingMemory(generator, fits=0, place=0.5)
    with pytest.raises(fairseq_el.OutOfMemoryError) as caught:
        generator.generate([model], sample)
    number = int(sample["id"][0])
    assert str(caught.value).startswith(
        f"Decoding sentence {number}, 9 tokens, by itself with beam 3 and outputs of up to 8 words ran out of memory "
        f"(RuntimeError: {MESSAGE})."
    )
    assert "Use a smaller --beam" in str(caught.value) and "\n" not in str(caught.value)
    assert isinstance(caught.value.__cause__, RuntimeError) and memory.tried == [3, 2, 1]
    assert isinstance(caught.value, RuntimeError) and "out of memory" in str(caught.value)  # what trainers look for


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("CUDA error: out of memory"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:66] . DefaultCPUAllocator: can't allocate memory: you tried to"),
        RuntimeError("[enforce fail at CPUAllocator.cpp:68] . DefaultCPUAllocator: not enough memory: you tried to"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
        RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"),
        RuntimeError("std::bad_alloc"),
        RuntimeError("could not create a primitive"),
        MemoryError(),
        OSError(12, "Cannot allocate memory"),
        getattr(torch.cuda, "OutOfMemoryError", RuntimeError)("HIP out of memory"),
    ],
    ids=str,
)
def test_running_out_of_memory_is_known(error):
    model, sample = el_model(), batch(WORDS, [4, 3], seed=3)
    generator = ELSequenceGenerator([model], WORDS, **SOME)
    expected = tokens(generator.generate([model], sample))
    FailingMemory(generator, fits=1, place=0.5, error=error)
    assert tokens(generator.generate([model], sample)) == expected


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("The size of tensor a (3) must match the size of tensor b (4)"),
        RuntimeError("CUDA error: device-side assert triggered"),
        RuntimeError("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`"),
        RuntimeError("could not create a primitive descriptor for a matmul primitive"),
        OSError(28, "No space left on device"),
        ValueError("out of memory"),
        fairseq_el.OutOfMemoryError("ran out of memory"),
        KeyboardInterrupt(),
    ],
    ids=repr,
)
def test_other_errors_end_the_run_at_once(error):
    model = el_model()
    generator = ELSequenceGenerator([model], WORDS, **SOME)
    memory = FailingMemory(generator, fits=1, place=0.5, error=error)
    with pytest.raises(type(error)) as caught:
        generator.generate([model], batch(WORDS, [4, 3], seed=3))
    assert caught.value is error and memory.tried == [2]
