"""Comparison of hypotheses: words as fairseq-generate writes them, and ids as programs return them."""

from __future__ import annotations

import json
import math

import pytest

from fairseq_el.scoring import Hypothesis, compare_hypotheses

EOS = 2
WORDS = {0: [Hypothesis("a b", -0.5), Hypothesis("a", -1.0)], 3: [Hypothesis("", -2.0)]}
IDS = {0: [Hypothesis([5, 6, EOS], -0.5, [-0.5] * 3)], 1: [Hypothesis([7, EOS], -1.0, [-1.0] * 2)]}


def test_the_same_words():
    agreement = compare_hypotheses(WORDS, {0: [Hypothesis("a b", -0.5), Hypothesis("a", -1.25)], 3: WORDS[3]})
    assert (agreement.sentences, agreement.num_identical) == (2, 2)
    assert (agreement.differing, agreement.first, agreement.largest_gap) == ([], None, 0.25)


@pytest.mark.parametrize(
    ("number", "written"),
    [
        (3, []),
        (3, [Hypothesis("", -2.0), Hypothesis("x", -3.0)]),
        (0, WORDS[0][::-1]),
        (0, [Hypothesis("ab", -0.5), Hypothesis("a", -1.0)]),
    ],
    ids=["fewer", "more", "in another order", "other words"],
)
def test_other_hypotheses(number, written):
    agreement = compare_hypotheses(WORDS, {**WORDS, number: written})
    assert agreement.differing == [number] and agreement.num_identical == 1
    assert agreement.first == (WORDS[number], written)


def test_a_sentence_that_one_program_alone_decoded():
    assert compare_hypotheses(WORDS, {0: WORDS[0]}).differing == [3]
    assert compare_hypotheses({0: WORDS[0]}, WORDS).first == ((), WORDS[3])


def test_scores_count_only_where_tokens_are_the_same():
    assert compare_hypotheses(WORDS, {**WORDS, 3: [Hypothesis("x", 9.0)]}).largest_gap == 0
    unknown = {**WORDS, 3: [Hypothesis("", None)]}
    assert compare_hypotheses(WORDS, unknown).largest_gap == compare_hypotheses(unknown, WORDS).largest_gap == 0
    for order in ([0, 3], [3, 0]):
        strange = {number: [Hypothesis(each.tokens, math.nan) for each in WORDS[number]] for number in order[:1]}
        assert math.isnan(compare_hypotheses(WORDS, {**WORDS, **strange}).largest_gap)


def test_a_last_eos_does_not_count_where_a_program_writes_none():
    without = {0: [Hypothesis([5, 6], -0.5)], 1: [Hypothesis([7], -1.5)]}
    assert compare_hypotheses(IDS, without).differing == [0, 1]
    agreement = compare_hypotheses(IDS, without, optional_end=EOS)
    assert (agreement.differing, agreement.largest_gap) == ([], 0.5)
    inside = {**without, 0: [Hypothesis([5, EOS, 6], -0.5)]}
    assert compare_hypotheses(IDS, inside, optional_end=EOS).differing == [0]


def test_as_json_has_it():
    agreement = compare_hypotheses({1: [Hypothesis("a b", -0.5)]}, {1: []})
    assert json.loads(json.dumps(agreement.as_dict())) == {
        "sentences": 1,
        "differing": [1],
        "first": [[["a b", -0.5]], []],
        "largest_gap": 0.0,
    }
