from __future__ import annotations

import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from reference import multihead_attention

from fairseq_el._compat import torch_version
from fairseq_el.ops import as_bias, fused_head_dim, kv_attention, masked_softmax

SIZES = st.tuples(st.integers(1, 4), st.integers(1, 5), st.integers(1, 5), st.integers(1, 7), st.integers(1, 9))


def make_inputs(sizes, seed, dtype=torch.float64):
    """Queries, memory and projections; some of the memory is hidden from each query, never all of it."""
    num_sentences, num_queries, num_heads, head_dim, length = sizes
    width = num_heads * head_dim
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

    attn_mask = torch.rand(num_sentences, num_queries, length, generator=generator) < 0.5
    attn_mask[..., 0] = False
    return {
        "query": normal(num_sentences, num_queries, num_heads, head_dim),
        "memory": normal(num_sentences, length, width),
        "key_weight": normal(width, width) / width**0.5,
        "key_bias": normal(width),
        "value_weight": normal(width, width) / width**0.5,
        "value_bias": normal(width),
        "attn_mask": attn_mask,
    }


def keys_and_values(inputs):
    """Projected, split into heads: ``(B, h, n, dh)``, as slices of storage with more room, like a decode state's."""
    num_heads, head_dim = inputs["query"].shape[2:]
    result = []
    for name in ("key", "value"):
        projected = torch.nn.functional.linear(inputs["memory"], inputs[f"{name}_weight"], inputs[f"{name}_bias"])
        heads = projected.unflatten(2, (num_heads, head_dim)).transpose(1, 2)
        result.append(torch.cat([heads, heads.new_full((*heads.shape[:2], 3, head_dim), 9.0)], dim=2)[:, :, :-3])
    return result


MASKS = st.sampled_from(["no mask", "hidden", "bias"])


@given(SIZES, st.integers(0, 10**6), MASKS, st.sampled_from([1.0, 0.3]), st.sampled_from([None, 1, 3]))
def test_equals_multihead_attention_in_float64(sizes, seed, mask, scale, k):
    inputs = make_inputs(sizes, seed)
    if mask == "no mask":
        inputs["attn_mask"] = None
    expected, _ = multihead_attention(**{**inputs, "query": inputs["query"] * scale}, k=k)
    attn_mask = as_bias(inputs["attn_mask"], torch.float64) if mask == "bias" else inputs["attn_mask"]
    output = kv_attention(inputs["query"], *keys_and_values(inputs), attn_mask, scale=scale, k=k)
    torch.testing.assert_close(output, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.skipif(torch_version() < (2, 1), reason="torch fuses attention with a scale from 2.1 on")
@given(SIZES, st.integers(0, 10**6), st.sampled_from(["hidden", "bias"]), st.sampled_from([1.0, 0.3]))
def test_heads_with_zeros_compute_the_same(sizes, seed, mask, scale):
    """Heads of 1 to 7 numbers, as they are computed on a card in 16 bits: as heads of 8."""
    inputs = make_inputs(sizes, seed)
    expected, _ = multihead_attention(**{**inputs, "query": inputs["query"] * scale})
    attn_mask = as_bias(inputs["attn_mask"], torch.float64) if mask == "bias" else inputs["attn_mask"]
    widths = []

    def fused(query, *more, **options):
        widths.append(query.size(-1))
        return sdpa(query, *more, **options)

    sdpa = torch.nn.functional.scaled_dot_product_attention
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            sys.modules["fairseq_el.ops.kv_attention"],
            "fused_head_dim",
            lambda width, *_: fused_head_dim(width, "cuda", 2),
        )
        patch.setattr("torch.nn.functional.scaled_dot_product_attention", fused)
        output = kv_attention(inputs["query"], *keys_and_values(inputs), attn_mask, scale=scale)
    assert widths == [8]
    torch.testing.assert_close(output, expected, rtol=1e-10, atol=1e-12)


def test_which_heads_get_zeros():
    assert [fused_head_dim(width, "cuda", 2) for width in (1, 4, 8, 12, 64)] == [8, 8, 8, 16, 64]
    assert fused_head_dim(4, "cuda", 4) == fused_head_dim(4, "cpu", 2) == 4


@pytest.mark.parametrize("length", [1, 16, 19])
def test_a_bias_has_rows_that_a_card_need_not_copy(length):
    hidden = torch.rand(2, 3, length, generator=torch.Generator().manual_seed(1)) < 0.5
    bias = as_bias(hidden, torch.float16)
    assert bias.shape == hidden.shape and bias.dtype == torch.float16
    assert all(stride % 16 == 0 for stride in bias.stride()[:-1])
    assert (bias[hidden] == -torch.inf).all() and (bias[~hidden] == 0).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_low_precision_errs_at_most_twice_as_much_as_plain(dtype):
    """Against float64: no more than twice the error of attention in the same dtype over a cache of each beam's own."""
    exact, low = (make_inputs((3, 4, 4, 16, 40), seed=1, dtype=d) for d in (torch.float64, dtype))
    key, value = keys_and_values(low)
    scores = torch.einsum("bqhd,bhnd->bqhn", low["query"], key)
    weights = torch.softmax(scores.masked_fill(low["attn_mask"].unsqueeze(2), -torch.inf), -1, dtype=torch.float32)
    plain = torch.einsum("bqhn,bhnd->bqhd", weights.to(dtype), value)
    expected, _ = multihead_attention(**exact)
    mine = kv_attention(low["query"], key, value, low["attn_mask"], softmax_dtype=torch.float32)
    assert (mine.double() - expected).abs().max() <= 2 * (plain.double() - expected).abs().max()


@given(st.integers(1, 5), st.integers(2, 40), st.integers(0, 10**6))
def test_hidden_positions_leave_no_trace_where_the_softmax_rounds(rows, length, seed):
    """Bit for bit the float32 softmax of the visible scores alone, wherever the hidden ones lie."""
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(rows, length, generator=generator, dtype=torch.float64) * 5
    hidden = torch.rand(rows, length, generator=generator) < 0.6
    hidden[:, seed % length] = False
    weights = masked_softmax(scores.clone(), hidden, torch.float32)
    for i in range(rows):
        assert torch.equal(weights[i][~hidden[i]], torch.softmax(scores[i][~hidden[i]], dim=0, dtype=torch.float32))
        assert (weights[i][hidden[i]] == 0).all()
