from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from ops.test_el_attention import SIZES, make_inputs
from reference import multihead_attention

from fairseq_el.ops import el_attention, topk_el_attention


@given(SIZES, st.integers(1, 12), st.integers(0, 10**6), st.booleans(), st.booleans(), st.booleans())
def test_equals_topk_multihead_attention_in_float64(sizes, k, seed, masked, biased, tree):
    inputs = make_inputs(sizes, seed, masked=masked, biased=biased, tree=tree)
    expected, expected_weights = multihead_attention(**inputs, k=k)
    output, weights = topk_el_attention(**inputs, k=k)
    torch.testing.assert_close(output, expected, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(weights, expected_weights, rtol=1e-10, atol=1e-12)


@given(SIZES, st.integers(0, 10**6), st.booleans())
def test_is_el_attention_when_k_is_not_below_the_length(sizes, seed, rounds):
    inputs = make_inputs(sizes, seed)
    options = {"softmax_dtype": torch.float32} if rounds else {}
    expected, expected_weights = el_attention(**inputs, **options)
    output, weights = topk_el_attention(**inputs, k=sizes[-1], **options)
    tolerance = {"rtol": 1e-6, "atol": 1e-6} if rounds else {"rtol": 1e-10, "atol": 1e-12}
    torch.testing.assert_close(output, expected, **tolerance)
    torch.testing.assert_close(weights, expected_weights, **tolerance)


def test_rows_that_are_not_selected_are_not_read_for_the_sum():
    inputs = make_inputs((2, 3, 2, 4, 8, 20), seed=1)
    expected, _ = topk_el_attention(**inputs, k=3)
    assert (~inputs["key_padding_mask"]).sum(dim=1).ge(3).all() and inputs["key_padding_mask"].any()
    inputs["memory"][inputs["key_padding_mask"]] = float("nan")  # times a weight of zero that would still be NaN
    assert torch.equal(topk_el_attention(**inputs, k=3)[0], expected)


def test_dropout_gets_the_k_weights_and_weights_the_value_bias_too():
    inputs = make_inputs((2, 3, 4, 5, 7, 6), seed=4)
    expected, weights = topk_el_attention(**inputs, k=4)
    halved, undropped = topk_el_attention(**inputs, k=4, dropout=lambda probs: 0.5 * probs)
    torch.testing.assert_close(halved, 0.5 * expected, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(undropped, weights, rtol=0, atol=0)


def test_k_must_be_positive():
    with pytest.raises(ValueError, match="k must be at least 1; got 0"):
        topk_el_attention(**make_inputs((1, 1, 1, 2, 2, 2), seed=0), k=0)
