"""Steps that stay in place, against the loop's other steps: the same hypotheses, in float64 to the last bit or nearly.

Storage is smaller here than on a card, so that a batch of a few words runs through several sizes of it.
"""

from __future__ import annotations

import os
from collections import Counter

import pytest
import torch
from drawn_searches import check
from fairseq.search import DiverseBeamSearch
from hypothesis import given, settings
from hypothesis import strategies as st
from native_cases import EXACT, LENGTHS, WORDS, assert_same, generator_of, make
from searches import in_place, in_python
from tiny import batch

from fairseq_el import policy
from fairseq_el.decoding.static_state import StaticTree
from fairseq_el.errors import NoHypothesisError
from fairseq_el.generation import choice, static_search
from fairseq_el.generation.static_history import History

CASES = int(os.environ.get("FAIRSEQ_EL_CASES", "100"))
SIZES = {"STEPS_OF_ROOM": [1, 2, 16], "LEAST_STATIC_ROWS": [1, 64], "LEAST_OUTPUT_ROWS": [1, 512]}


@pytest.fixture
def seen(monkeypatch):
    """Counts what happens to storage, and the steps in which hypotheses end."""
    counter = Counter()
    make_room, keep, add = StaticTree.make_room, StaticTree.keep, History.hypotheses

    def counted_room(tree, steps_left):
        is_new = make_room(tree, steps_left)
        counter["new storage" if is_new else "compactions"] += 1
        return is_new

    def counted_keep(tree, sentences):
        counter["fewer sentences"] += 1
        keep(tree, sentences)

    def counted_hypotheses(history):
        for sentence, found in add(history):
            counter[found["steps"]] += 1
            yield sentence, found

    monkeypatch.setattr(StaticTree, "make_room", counted_room)
    monkeypatch.setattr(StaticTree, "keep", counted_keep)
    monkeypatch.setattr(History, "hypotheses", counted_hypotheses)
    return counter


@pytest.mark.parametrize("of_language", [False, True], ids=["encoder-decoders", "language models"])
def test_random_models_and_options(of_language, seen):
    @settings(max_examples=CASES)
    @given(data=st.data())
    def case(data):
        with pytest.MonkeyPatch.context() as patch:
            for name, sizes in SIZES.items():
                patch.setattr(policy, name, data.draw(st.sampled_from(sizes)))
            options = {"may_be_alone": True, "longest": 24, **EXACT}
            check(data, torch.float64, of_language, in_place, **options)

    case()
    if CASES >= 100:  # the test has seen what it is for
        assert all(seen[name] > 10 for name in ("new storage", "compactions", "fewer sentences"))
        assert all(seen[step] > 0 for step in range(3, 16))


def decoded(way, generator, **given):
    with way():
        return generator.generate(list(generator.model.models), batch(WORDS, LENGTHS, seed=3), **given)


@pytest.fixture
def small_storage(monkeypatch):
    monkeypatch.setattr(policy, "STEPS_OF_ROOM", 6)
    monkeypatch.setattr(policy, "LEAST_STATIC_ROWS", 1)


def test_replayed_steps(small_storage, monkeypatch):
    """A graph is captured for every storage that serves some steps, right after a step over it; and not again."""
    captures, replays = [], []

    def captured(step, device):
        captures.append(step)
        return lambda: (replays.append(step), step())

    monkeypatch.setattr(static_search, "why_no_graphs", lambda device: "")
    monkeypatch.setattr(static_search, "captured", captured)
    generator = generator_of(make(), max_len_b=24, min_len=20)
    found = decoded(in_place, generator)
    assert_same(found, decoded(in_python, generator), **EXACT)
    assert 1 < len(captures) < 6 and len(replays) > 3 * len(captures)


def test_each_sentence_as_if_it_were_alone(small_storage):
    """The shortest end in the last steps that their own lengths allow, and the others go on."""
    generator = generator_of(make(), beam_size=4, max_len_a=2, max_len_b=3, min_len=3)
    generator.alone = True
    found = decoded(in_place, generator)
    assert_same(found, decoded(in_python, generator), **EXACT)
    longest = [max(one["steps"] for one in of_sentence) for of_sentence in found]
    at_most = [2 * length + 4 for length in sorted(LENGTHS, reverse=True)]  # 18, 14, 8 and 6
    assert longest[2:] == at_most[2:] and all(8 < steps <= most for steps, most in zip(longest[:2], at_most))


def test_limits_after_prompts(small_storage):
    generator = generator_of(make(), max_len_b=30)
    generator.min_new_tokens, generator.max_new_tokens = 4, 9
    prompts = torch.tensor([[5, 6, 7], [6, 1, 1], [1, 1, 1], [7, 5, 1]])
    found = decoded(in_place, generator, prefix_tokens=prompts)
    assert_same(found, decoded(in_python, generator, prefix_tokens=prompts), **EXACT)
    for of_sentence, length in zip(found, [3, 1, 0, 2]):
        assert {4 < one["steps"] - length <= 9 for one in of_sentence} == {True}


def test_a_capture_that_fails(monkeypatch, caplog):
    attempts = []

    def captured(step, device):
        attempts.append(step)
        raise RuntimeError("CUDA error: operation not permitted when stream is capturing\nCompile with ...")

    monkeypatch.setattr(static_search, "why_no_graphs", lambda device: "")
    monkeypatch.setattr(static_search, "captured", captured)
    generator = generator_of(make(), max_len_b=24)
    found = decoded(in_place, generator)
    assert_same(found, decoded(in_python, generator), **EXACT)
    assert len(attempts) == 1
    (message,) = [record.getMessage() for record in caplog.records if record.name == static_search.__name__]
    assert message == (
        "A step can't be captured in a CUDA graph (CUDA error: operation not permitted when stream is capturing); "
        "it is launched from Python"
    )


@pytest.mark.parametrize("alone", [False, True])
def test_no_hypothesis(alone):
    """Without an eos no hypothesis ends."""
    generator = generator_of(make(), max_len_a=1, max_len_b=2)
    generator.alone = alone
    generator.token_indices_to_suppress = torch.tensor([WORDS.eos()])
    errors = []
    for way in (in_place, in_python):
        with pytest.raises(NoHypothesisError) as caught:
            decoded(way, generator)
        errors.append(str(caught.value))
    assert errors[0] == errors[1]


def test_bytes_are_measured(small_storage):
    generator, sizes = generator_of(make(), max_len_b=30, min_len=28), []
    generator.on_batch = sizes.append
    decoded(in_place, generator)
    layers, width, capacity = 2, 16, policy.static_capacity(85, 3, 1)
    (found,) = sizes
    kept = 4 * capacity * (layers * 2 * width * 8 + 3)  # keys and values in float64, and a mask
    assert kept / 3 < found.past <= 2 * kept
    assert found.source == 4 * 7 * (16 * 8 + 1)


def test_it_is_on_where_there_are_graphs(monkeypatch):
    generator = generator_of(make())
    monkeypatch.setattr(static_search, "why_no_graphs", lambda device: "")
    prepared = generator._prepared(batch(WORDS, LENGTHS, seed=3), None, None, None)
    with torch.no_grad():
        assert prepared[2].uses_graphs and static_search.StaticSearch.refusal(*prepared) is None
    generator.cuda_graphs = "off"
    prepared = generator._prepared(batch(WORDS, LENGTHS, seed=3), None, None, None)
    assert not prepared[2].uses_graphs and static_search.StaticSearch.refusal(*prepared) == ""


def test_it_is_off_on_a_cpu_and_unless_asked_for():
    generator = generator_of(make())
    rules, active, decoders = generator._prepared(batch(WORDS, LENGTHS, seed=3), None, None, None)
    assert not decoders.uses_graphs and static_search.StaticSearch.refusal(rules, active, decoders) == ""
    generator.cuda_graphs = "on"
    rules, active, decoders = generator._prepared(batch(WORDS, LENGTHS, seed=3), None, None, None)
    reason = static_search.StaticSearch.refusal(rules, active, decoders)
    assert reason == "the batch is on cpu, and CUDA graphs are for cards"
    generator.cuda_graphs = "off"
    assert not generator._prepared(batch(WORDS, LENGTHS, seed=3), None, None, None)[2].uses_graphs


REFUSED = {
    "the search is not fairseq's plain beam search": {"search_strategy": DiverseBeamSearch(WORDS, 3, 0.5)},
    "attention is recorded": {"record_attention": True},
    "somebody watches every step": {"on_step": print},
    "repeated n-grams are left to fairseq's module": {"no_repeat_ngram_size": 2, "ngram_blocking_as_stock": True},
    "10 beams are many for a vocabulary of 20": {"beam_size": 10},
}


@pytest.mark.parametrize("reason", REFUSED)
def test_refusals(reason):
    later = ("record_attention", "on_step", "ngram_blocking_as_stock")
    given = REFUSED[reason]
    generator = generator_of(make(), **{name: value for name, value in given.items() if name not in later})
    for name in set(given) & set(later):
        setattr(generator, name, given[name])
    prepared = generator._prepared(batch(WORDS, LENGTHS, seed=3), None, None, None)
    with torch.no_grad(), in_place():
        assert choice.IMPLEMENTATIONS[0].refusal(*prepared) == reason
