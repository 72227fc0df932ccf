"""Outputs that are not what they should be are found."""

from __future__ import annotations

from dataclasses import replace

import pytest

from fairseq_el.bench.output_checks import (
    ScoreError,
    check_form,
    compare,
    require_agreement,
    require_rounding,
    score_error,
)
from fairseq_el.errors import FairseqElError
from fairseq_el.scoring import Hypothesis

EOS = 2
STOCK = [Hypothesis([5, 6, 7, EOS], -0.5, [-0.5] * 4), Hypothesis([8, 9, 8, EOS], -1.0, [-1.0] * 4)]


def tampered(**changes):
    return [STOCK[0], replace(STOCK[1], **changes)]


def test_equal_outputs_pass():
    check_form("el", STOCK, 3, 10, EOS, writes_eos=True)
    agreement = compare(STOCK, list(STOCK), EOS)
    assert agreement.differing == []
    require_agreement("el", STOCK, STOCK, agreement)


def test_another_token_is_found():
    mine = tampered(tokens=[8, 9, 9, EOS])
    agreement = compare(mine, STOCK, EOS)
    assert agreement.differing == [1] and agreement.num_identical == 1
    with pytest.raises(
        FairseqElError, match=r"el: 1 of 2 outputs differ from stock's.* sentence 1:\n.*8 9 8 2.*\n.*8 9 9 2"
    ):
        require_agreement("el", mine, STOCK, agreement)


@pytest.mark.parametrize("score", [-1.001, float("nan")])
def test_another_score_is_found(score):
    mine = [replace(STOCK[0], score=score), STOCK[1]]
    with pytest.raises(FairseqElError, match="a score differs by"):
        require_agreement("el", mine, STOCK, compare(mine, STOCK, EOS))


def test_a_last_eos_does_not_count():
    assert compare(tampered(tokens=[8, 9, 8]), STOCK, EOS).differing == []


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        ([8, 9, EOS], "has 3 tokens; 4 were asked for"),
        ([8, 9, 10, EOS], r"has ids \[10\]; there are 10 words"),
        ([8, EOS, 9, EOS], "eos in the wrong place"),
        ([8, 9, 9, 9], "eos in the wrong place"),
    ],
)
def test_the_form_of_outputs(tokens, message):
    with pytest.raises(FairseqElError, match=message):
        check_form("el", tampered(tokens=tokens), 3, 10, EOS, writes_eos=True)


def test_score_errors_are_root_mean_squares():
    reference = [[-0.5, -0.5, -0.5, -0.3], [-1.0] * 4]
    error = score_error(STOCK, reference, lenpen=1.0)
    assert error.per_word == pytest.approx((0.04 / 8) ** 0.5)
    assert error.whole == pytest.approx((0.05**2 / 2) ** 0.5)
    with_penalty = [replace(output, score=output.score * 4 / 4**2) for output in STOCK]
    assert score_error(with_penalty, reference, lenpen=2.0).whole == pytest.approx(error.whole)
    unknown = [replace(output, score=None, word_scores=None) for output in STOCK]
    assert score_error(unknown, reference, lenpen=1.0) == ScoreError(None, None)


def test_rounding_is_at_most_twice_that_of_stock():
    require_rounding("el", ScoreError(1.9e-3, None), ScoreError(1e-3, None))
    with pytest.raises(FairseqElError, match=r"off by 0\.0021 .* stock's in this dtype by 0\.001"):
        require_rounding("el", ScoreError(2.1e-3, None), ScoreError(1e-3, None))
    with pytest.raises(FairseqElError, match="off by nan"):
        require_rounding("el", ScoreError(float("nan"), None), ScoreError(1e-3, None))
