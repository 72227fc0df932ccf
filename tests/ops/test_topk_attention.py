from __future__ import annotations

import weakref
from importlib import import_module

import pytest
import reference
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from fairseq_el._compat import torch_version
from fairseq_el.measure import CAN_TRACK, PeakBytes
from fairseq_el.ops import topk_attention

module = import_module("fairseq_el.ops.topk_attention")  # the package has the function under this name
HAS_HALF = torch_version() >= (2, 1)  # on a CPU


def draw(shape, generator, dtype=torch.float64):
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)


def make_inputs(sizes, seed, dtype=torch.float64, expanded=False):
    num_sentences, num_heads, num_queries, num_keys, head_dim, value_dim = sizes
    generator = torch.Generator().manual_seed(seed)
    query = draw((num_sentences, num_heads, num_queries, head_dim), generator, dtype) / head_dim**0.5
    own = 1 if expanded else num_sentences  # sentences with keys of their own
    key = draw((own, num_heads, num_keys, head_dim), generator, dtype)
    value = draw((own, num_heads, num_keys, value_dim), generator, dtype)
    return [tensor.requires_grad_() for tensor in (query, key, value)]


def make_masks(sizes, seed, padding, kind):
    num_sentences, num_heads, num_queries, num_keys = sizes[:4]
    generator = torch.Generator().manual_seed(seed + 1)
    masks = {}
    if padding:
        masks["key_padding_mask"] = torch.rand(num_sentences, num_keys, generator=generator) < 0.4
    shape = {
        "(t, n)": (num_queries, num_keys),
        "(B, 1, t, n)": (num_sentences, 1, num_queries, num_keys),
        "bias": (num_heads, num_queries, num_keys),
    }.get(kind)
    if shape is not None:
        masks["attn_mask"] = torch.rand(shape, generator=generator) < 0.4
    if kind == "bias":
        masks["attn_mask"] = draw(shape, generator).masked_fill(masks["attn_mask"], float("-inf"))
    return masks


def run_both(inputs, k, masks, causal, **options):
    """Outputs and gradients of the operation and of its twin."""
    query, key, value = inputs
    wide = [x.expand(query.size(0), *x.shape[1:]) for x in (key, value)]
    mine = topk_attention(query, *wide, k, **masks, causal=causal, **options)
    expected = reference.topk_attention(query, *wide, k, **masks, causal=causal)
    towards = draw(expected.shape, torch.Generator().manual_seed(0))
    gradients = (torch.autograd.grad(output, inputs, towards) for output in (mine, expected))
    return (mine, *next(gradients)), (expected, *next(gradients))


def assert_close(mine, expected):
    for one, other in zip(mine, expected):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)


@pytest.fixture
def small_pieces(monkeypatch):
    """Sets how much is computed at a time, so that small inputs take several pieces."""

    def set_bytes(bytes_at_once, fewest_rows):
        monkeypatch.setitem(module._BYTES_AT_ONCE, "cpu", bytes_at_once)
        monkeypatch.setattr(module, "_FEWEST_ROWS", fewest_rows)

    return set_bytes


@given(
    sizes=st.tuples(*(st.integers(1, most) for most in (3, 3, 9, 40, 5, 5))),
    k=st.integers(1, 44),
    padding=st.booleans(),
    kind=st.sampled_from([None, "(t, n)", "(B, 1, t, n)", "bias"]),
    causal=st.booleans(),
    expanded=st.booleans(),
    query_chunk=st.integers(1, 10),
    bytes_at_once=st.integers(1, 10_000),
    fewest_rows=st.integers(1, 4),
    seed=st.integers(0, 10**6),
)
@example((2, 3, 5, 400, 3, 4), 5, True, None, False, False, 3, 1 << 20, 2, 0)  # k so small that groups are searched
@example((1, 2, 9, 4, 3, 4), 2, False, None, True, False, 2, 500, 1, 1)  # the first queries see no key
def test_equals_the_twin_in_float64(
    small_pieces, sizes, k, padding, kind, causal, expanded, query_chunk, bytes_at_once, fewest_rows, seed
):
    small_pieces(bytes_at_once, fewest_rows)
    inputs, masks = make_inputs(sizes, seed, expanded=expanded), make_masks(sizes, seed, padding, kind)
    mine, expected = run_both(inputs, k, masks, causal, query_chunk=query_chunk)
    assert_close(mine, expected)
    with torch.no_grad():
        query, *wide = (x.expand(sizes[0], *x.shape[1:]) for x in inputs)
        assert torch.equal(topk_attention(query, *wide, k, **masks, causal=causal, query_chunk=query_chunk), mine[0])


@pytest.mark.parametrize("k", [1, 3, 6, 9])
@pytest.mark.parametrize("causal", [False, True])
def test_gradients_against_differences(k, causal):
    inputs = make_inputs((2, 2, 4, 6, 3, 2), seed=3)
    padding = torch.zeros(2, 6, dtype=torch.bool)
    padding[0, 4:] = True
    assert torch.autograd.gradcheck(
        lambda *x: topk_attention(*x, k, key_padding_mask=padding, causal=causal, query_chunk=3), inputs
    )


@pytest.mark.parametrize("k", [7, 8, 100])
def test_is_ordinary_attention_when_k_is_not_below_the_number_of_keys(k):
    query, key, value = make_inputs((2, 3, 5, 7, 4, 4), seed=4)
    mask = make_masks((2, 3, 5, 7), 4, False, "bias")["attn_mask"]
    output = topk_attention(query, key, value, k, attn_mask=mask, query_chunk=2)
    expected = torch.softmax(query @ key.transpose(2, 3) + mask, dim=-1) @ value
    torch.testing.assert_close(output, expected, rtol=1e-10, atol=1e-12)


@given(
    num_keys=st.integers(1, 60), k=st.integers(1, 20), levels=st.integers(1, 4), seed=st.integers(0, 10**6)
)  # few different scores, so that many are equal
def test_of_equal_scores_exactly_k_are_kept(num_keys, k, levels, seed):
    generator = torch.Generator().manual_seed(seed)
    key = torch.randint(levels, (1, 2, num_keys, 1), generator=generator).double()
    query = torch.ones(1, 2, 3, 1, dtype=torch.float64)
    one_hot = torch.eye(num_keys, dtype=torch.float64).expand(1, 2, -1, -1)  # the output is then the weights
    weights = topk_attention(query, key, one_hot, k)
    kept = weights > 0
    assert (kept.sum(dim=-1) == min(k, num_keys)).all()
    torch.testing.assert_close(weights.sum(dim=-1), torch.ones(1, 2, 3, dtype=torch.float64))
    scores = key.transpose(2, 3).expand_as(kept)
    lowest_kept = scores.masked_fill(~kept, float("inf")).amin(dim=-1, keepdim=True)
    assert (scores.masked_fill(kept, 0) <= lowest_kept).all()


def test_a_query_that_sees_nothing_gets_zeros_and_no_gradient():
    query, key, value = inputs = make_inputs((2, 2, 3, 5, 4, 4), seed=5)
    padding = torch.tensor([[True] * 5, [False] * 5])
    output = topk_attention(query, key, value, 2, key_padding_mask=padding)
    assert output[0].eq(0).all() and output[1].ne(0).all()
    for gradient in torch.autograd.grad(output.sum(), inputs):
        assert gradient[0].eq(0).all() and gradient.isfinite().all()


def test_inputs_are_only_read_and_may_be_strided():
    inputs = make_inputs((2, 3, 5, 40, 4, 4), seed=6)
    expected = topk_attention(*inputs, 3)
    # as fairseq has them: (t, B*h, dh), seen as (B, h, t, dh)
    strided = [x.detach().flatten(0, 1).transpose(0, 1).contiguous().transpose(0, 1).view_as(x) for x in inputs]
    before = [x.clone() for x in strided]
    output = topk_attention(*(x.requires_grad_() for x in strided), 3)
    torch.testing.assert_close(output, expected, rtol=1e-10, atol=1e-12)
    assert all(torch.equal(x, y) for x, y in zip(strided, before))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16] if HAS_HALF else [torch.bfloat16])
@pytest.mark.parametrize("seed", range(3))
def test_low_precision_error_is_at_most_twice_that_of_the_plain_computation(dtype, seed, small_pieces):
    """Mean errors, against float64: which of two nearly equal scores is kept is decided by rounding in both."""
    small_pieces(100_000, 16)  # sums over several pieces
    inputs = make_inputs((2, 4, 120, 200, 16, 16), seed, dtype)
    exact_inputs = [x.detach().double().requires_grad_() for x in inputs]
    towards = draw((2, 4, 120, 16), torch.Generator().manual_seed(9), dtype)

    def run(attention, x, grad):
        output = attention(*x)
        return (output, *torch.autograd.grad(output, x, grad))

    exact = run(lambda *x: reference.topk_attention(*x, 20), exact_inputs, towards.double())
    plain = run(lambda *x: plain_topk_attention(*x, 20), inputs, towards)
    mine = run(lambda *x: topk_attention(*x, 20), inputs, towards)
    for one, other, truth in zip(mine, plain, exact):
        error, plain_error = ((x.double() - truth).abs().mean().item() for x in (one, other))
        assert error <= 2 * plain_error


def plain_topk_attention(query, key, value, k):
    """The twin as fairseq would compute it: all in the dtype of the inputs, the softmax in float32."""
    scores = reference.only_the_largest(query @ key.transpose(2, 3), k)
    return torch.softmax(scores, dim=-1, dtype=torch.float32).to(query.dtype) @ value


def test_dropout_drops_weights_and_the_gradients_know_which():
    sizes, k, probability = (3, 4, 30, 50, 6, 6), 20, 0.3
    query, key, value = inputs = make_inputs(sizes, seed=7)
    one_hot = torch.eye(50, dtype=torch.float64).expand(3, 4, -1, -1)

    def run(values):
        torch.manual_seed(11)
        return topk_attention(query, key, values, k, dropout=probability, query_chunk=7)

    undropped = topk_attention(query, key, one_hot, k, query_chunk=7)
    factors = (run(one_hot) / undropped).nan_to_num(0.0).detach()  # 0 / 0 where a key is not among the k
    torch.testing.assert_close(factors[factors > 0], torch.full_like(factors[factors > 0], 1 / (1 - probability)))
    dropped = 1 - (factors > 0).sum().item() / (undropped > 0).sum().item()
    assert abs(dropped - probability) < 5 * (probability * (1 - probability) / (undropped > 0).sum().item()) ** 0.5

    output = run(value)
    expected = reference.topk_attention(*inputs, k, factors=factors)
    towards = draw(output.shape, torch.Generator().manual_seed(0))
    assert_close(
        (output, *torch.autograd.grad(output, inputs, towards)),
        (expected, *torch.autograd.grad(expected, inputs, towards)),
    )


@pytest.mark.skipif(not CAN_TRACK, reason="torch before 2.1 can't be asked how long a storage lives")
@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_live_bytes_grow_with_the_length_not_with_its_square(small_pieces, dropout):
    bytes_at_once = 1 << 18
    small_pieces(bytes_at_once, 16)
    heads, head_dim, k = 2, 16, 8
    for length in (512, 2048):
        query, key, value = inputs = [torch.randn(1, heads, length, head_dim, requires_grad=True) for _ in range(3)]
        towards, counted = torch.randn(1, heads, length, head_dim), PeakBytes()
        with counted:
            output = topk_attention(query, key, value, k, causal=True, dropout=dropout)
            kept = counted.total
            torch.autograd.grad(output, inputs, towards)
        of_a_tensor = heads * length * head_dim * 4
        of_a_score = 4 + 2 + (dropout > 0)  # the score, where it was, whether it was dropped
        assert kept == of_a_tensor + heads * length * k * of_a_score
        # output, three gradients, two of them once more as sums over pieces, and what a piece needs
        assert counted.take() <= kept + 5 * of_a_tensor + 4 * bytes_at_once
        assert heads * length**2 * 4 > 4 * counted.take() or length == 512


def test_masks_are_not_kept_for_the_gradients():
    query, key, value = (torch.randn(1, 2, 8, 4, requires_grad=True) for _ in range(3))
    mask = torch.zeros(8, 8)
    output = topk_attention(query, key, value, 3, attn_mask=mask, key_padding_mask=torch.zeros(1, 8, dtype=torch.bool))
    mask = weakref.ref(mask)
    assert mask() is None
    torch.autograd.grad(output.sum(), (query, key, value))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"k": 0}, "k must be at least 1; got 0"),
        ({"query_chunk": 0}, "query_chunk must be at least 1; got 0"),
        ({"dropout": 1.0}, r"dropout must be at least 0 and below 1; got 1\.0"),
        ({"key": torch.zeros(2, 2, 5, 3)}, r"key must be \(B, h, n, dh\) like the query \(2, 2, 3, 4\); got"),
        ({"value": torch.zeros(2, 2, 6, 4)}, r"value must be \(B, h, n, dv\) like the key \(2, 2, 5, 4\); got"),
        ({"key_padding_mask": torch.zeros(2, 5)}, r"key_padding_mask must be bool \(2, 5\); got torch.float32"),
        ({"attn_mask": torch.zeros(3, 5, requires_grad=True)}, "attn_mask gets no gradient; detach it"),
        (
            {"attn_mask": torch.ones(3, 5, dtype=torch.uint8)},
            "attn_mask must be bool or floating .*uint8",
        ),
        ({"attn_mask": torch.zeros(4, 5)}, r"attn_mask must be broadcastable to \(B, h, t, n\) \(2, 2, 3, 5\); got"),
        ({"k": -1, "query_chunk": -2}, "k must be .* got -1; query_chunk must be .* got -2"),
    ],
)
def test_bad_arguments(change, message):
    arguments = {"query": torch.zeros(2, 2, 3, 4), "key": torch.zeros(2, 2, 5, 4), "value": torch.zeros(2, 2, 5, 4)}
    with pytest.raises(ValueError, match=message):
        topk_attention(**{**arguments, "k": 2, **change})
