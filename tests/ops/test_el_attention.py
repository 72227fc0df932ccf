from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from reference import multihead_attention

from fairseq_el.ops import contract_context, el_attention, expand_query

SIZES = st.tuples(
    st.integers(1, 4), st.integers(1, 5), st.integers(1, 5), st.integers(1, 7), st.integers(1, 13), st.integers(1, 9)
)


def make_inputs(sizes, seed, dtype=torch.float64, masked=True, biased=True, tree=False):
    num_sentences, num_beams, num_heads, head_dim, width, length = sizes
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

    key_padding_mask = None
    if masked:
        key_padding_mask = torch.rand(num_sentences, length, generator=generator) < 0.5
        key_padding_mask[torch.arange(num_sentences), torch.randint(length, (num_sentences,), generator=generator)] = (
            False
        )
    tree_mask = {}
    if tree:  # each query sees some positions of its own, and always one that is not padding
        attn_mask = torch.rand(num_sentences, num_beams, length, generator=generator) < 0.5
        if key_padding_mask is not None:
            attn_mask &= key_padding_mask.unsqueeze(1) | (torch.rand(length, generator=generator) < 0.5)
        visible = ~attn_mask if key_padding_mask is None else ~(attn_mask | key_padding_mask.unsqueeze(1))
        tree_mask["attn_mask"] = attn_mask & visible.any(dim=2, keepdim=True)
    return {
        "query": normal(num_sentences, num_beams, num_heads, head_dim),
        "memory": normal(num_sentences, length, width),
        "key_weight": normal(num_heads * head_dim, width) / width**0.5,
        "key_bias": normal(num_heads * head_dim) if biased else None,
        "value_weight": normal(num_heads * head_dim, width) / width**0.5,
        "value_bias": normal(num_heads * head_dim) if biased else None,
        "key_padding_mask": key_padding_mask,
        **tree_mask,
    }


@given(SIZES, st.integers(0, 10**6), st.booleans(), st.booleans(), st.booleans())
def test_equals_multihead_attention_in_float64(sizes, seed, masked, biased, tree):
    inputs = make_inputs(sizes, seed, masked=masked, biased=biased, tree=tree)
    expected, expected_weights = multihead_attention(**inputs)
    output, weights = el_attention(**inputs)
    torch.testing.assert_close(output, expected, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(weights, expected_weights, rtol=1e-10, atol=1e-12)


@given(SIZES, st.integers(0, 10**6))
def test_memory_may_be_a_strided_view(sizes, seed):
    inputs = make_inputs(sizes, seed)
    expected, _ = el_attention(**inputs)
    inputs["memory"] = inputs["memory"].transpose(0, 1).contiguous().transpose(0, 1)
    output, _ = el_attention(**inputs)
    torch.testing.assert_close(output, expected, rtol=1e-10, atol=1e-12)


def test_memory_and_mask_are_only_read():
    inputs = make_inputs((3, 4, 2, 5, 7, 6), seed=1)
    before = {name: None if value is None else value.clone() for name, value in inputs.items()}
    el_attention(**inputs)
    for name, value in inputs.items():
        assert torch.equal(value, before[name]), name


def test_expand_and_contract_are_the_products_of_the_paper():
    inputs = make_inputs((2, 3, 4, 5, 7, 6), seed=2)
    weight = inputs["key_weight"].view(4, 5, 7)
    expected = torch.einsum("sbik,ikd->sbid", inputs["query"], weight)
    torch.testing.assert_close(expand_query(inputs["query"], inputs["key_weight"]), expected)
    back = torch.einsum("sbid,ikd->sbik", expected, weight)
    torch.testing.assert_close(contract_context(expected, inputs["key_weight"]), back)


def test_a_key_bias_is_only_needed_where_the_softmax_rounds():
    inputs = make_inputs((2, 3, 4, 5, 7, 6), seed=3)
    with_bias, _ = el_attention(**inputs)
    rounded, _ = el_attention(**inputs, softmax_dtype=torch.float32)
    expected = plain_multihead_attention(**inputs)  # its softmax rounds to float32 too
    torch.testing.assert_close(rounded, expected, rtol=1e-10, atol=1e-12)
    inputs["key_bias"] = None
    assert torch.equal(el_attention(**inputs)[0], with_bias)
    assert not torch.allclose(el_attention(**inputs, softmax_dtype=torch.float32)[0], expected, rtol=1e-10, atol=1e-12)


def test_dropout_weights_the_value_bias_too():
    inputs = make_inputs((2, 3, 4, 5, 7, 6), seed=4)
    kept = (torch.rand(2, 3 * 4, 6, generator=torch.Generator().manual_seed(5)) < 0.5).double() * 2.0
    values = inputs["memory"] @ inputs["value_weight"].T + inputs["value_bias"]  # (B, n, h*dh)
    _, weights = multihead_attention(**inputs)
    expected = torch.einsum("sbin,snik->sbik", weights * kept.view(2, 3, 4, 6), values.view(2, 6, 4, 5))
    output, undropped = el_attention(**inputs, dropout=lambda probs: probs * kept)
    torch.testing.assert_close(output, expected, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(undropped, weights, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("seed", range(5))
def test_low_precision_error_is_at_most_twice_that_of_multihead_attention(dtype, seed):
    """The rule of the field: against float64, at most twice the error of the plain computation in the same dtype."""
    inputs = make_inputs((3, 4, 8, 16, 128, 200), seed)
    inputs["query"] *= 16**-0.5  # the scale that a projected query has
    exact, _ = multihead_attention(**inputs)
    rounded = {k: v.to(dtype) if v is not None and v.is_floating_point() else v for k, v in inputs.items()}
    plain = plain_multihead_attention(**rounded)
    output, _ = el_attention(**rounded, softmax_dtype=torch.float32)
    error, plain_error = ((x.double() - exact).abs().max().item() for x in (output, plain))
    assert error <= 2 * plain_error


def plain_multihead_attention(query, memory, key_weight, key_bias, value_weight, value_bias, key_padding_mask):
    """What stock fairseq computes: keys and values in the dtype of the weights, the softmax in float32."""
    num_heads, head_dim = query.shape[2:]
    keys = (memory @ key_weight.T + key_bias).unflatten(-1, (num_heads, head_dim))
    values = (memory @ value_weight.T + value_bias).unflatten(-1, (num_heads, head_dim))
    scores = torch.einsum("sbik,snik->sbin", query, keys)
    scores = scores.masked_fill(key_padding_mask[:, None, None], float("-inf"))
    weights = torch.softmax(scores, dim=-1, dtype=torch.float32).to(query.dtype)  # for every dtype
    return torch.einsum("sbin,snik->sbik", weights, values)
