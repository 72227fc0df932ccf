from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from reference import causal_linear_attention

from fairseq_el.ops import (
    FEATURE_MAPS,
    Sums,
    feature_map,
    linear_attention,
    linear_attention_chunked,
    linear_attention_step,
    orthogonal_directions,
    sums_of,
)

SIZES = st.tuples(st.integers(1, 3), st.integers(1, 23), st.integers(1, 3), st.integers(1, 5))


def make_inputs(sizes, name, seed, num_features=None, dtype=torch.float64):
    """Features of queries and keys, and values; the last key is hidden."""
    num_sentences, length, num_heads, head_dim = sizes
    generator = torch.Generator().manual_seed(seed)
    queries, keys, values = (
        torch.randn(num_sentences, length, num_heads, head_dim, generator=generator, dtype=dtype) for _ in range(3)
    )
    directions = orthogonal_directions(num_heads, num_features or head_dim, head_dim, seed)
    keys = feature_map(name, keys, directions)
    keys[:, -1] = 0
    return feature_map(name, queries, directions), keys, values


@given(SIZES, st.sampled_from(FEATURE_MAPS), st.integers(0, 10**6), st.integers(1, 9), st.integers(1, 7))
def test_parallel_chunked_and_step_equal_the_definition(sizes, name, seed, chunk, num_features):
    inputs = make_inputs(sizes, name, seed, num_features)
    expected = causal_linear_attention(*inputs)
    parallel, end = linear_attention(*inputs)
    small_chunks, _ = linear_attention(*inputs, chunk=chunk)
    chunked, chunked_end = linear_attention_chunked(*inputs, chunk=chunk)
    steps, step_end = [], Sums(torch.zeros_like(end.R), torch.zeros_like(end.S))
    for position in range(sizes[1]):
        output, step_end = linear_attention_step(*(x[:, position] for x in inputs), step_end)
        steps.append(output)
    for output in (parallel, small_chunks, chunked, torch.stack(steps, dim=1)):
        torch.testing.assert_close(output, expected, rtol=1e-10, atol=1e-10)
    for sums in (end, chunked_end, step_end):
        for found, added in zip(sums, sums_of(*inputs[1:])):
            torch.testing.assert_close(found, added, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("chunk", [1, 3, 8])
def test_gradients(chunk):
    """Of the output and of the sums at the end, by everything, against finite differences."""
    queries, keys, values = make_inputs((2, 7, 2, 3), "elu+1", seed=1, num_features=4)
    start = Sums(torch.rand(2, 2, 3, 3, dtype=torch.float64), torch.rand(2, 2, 3, dtype=torch.float64))
    inputs = [x.detach().requires_grad_() for x in (queries, keys, values, *start)]

    def run(queries, keys, values, R, S):  # noqa: N803
        output, end = linear_attention(queries, keys, values, Sums(R, S), chunk)
        return (output, *end)

    assert torch.autograd.gradcheck(run, inputs)


def test_a_query_that_no_key_answers_gets_zeros_and_zero_gradients():
    queries, keys, values = (x.requires_grad_() for x in make_inputs((1, 4, 1, 2), "sqr", seed=1))
    output, _ = linear_attention(queries * 0, keys, values)
    assert torch.equal(output, torch.zeros_like(values))
    inputs = (queries, keys * 0, values)
    nothing = Sums(torch.zeros(1, 1, 2, 2, dtype=torch.float64), torch.zeros(1, 1, 2, dtype=torch.float64))
    for output in (linear_attention(*inputs)[0], linear_attention_step(*(x[:, 0] for x in inputs), nothing)[0]):
        assert not output.any()
        grads = torch.autograd.grad(output.sum(), inputs, retain_graph=True)
        assert not any(grad.any() for grad in grads)


def test_favor_estimates_softmax_attention():
    """The estimate improves with the number of random features."""
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(3, 1, 12, 1, 4, generator=generator, dtype=torch.float64) * 0.7
    scores = torch.einsum("blhd,bmhd->bhlm", x[0], x[1]) / 2
    weights = torch.softmax(scores.masked_fill(torch.ones(12, 12).triu(1).bool(), -torch.inf), dim=-1)
    expected = torch.einsum("bhlm,bmhd->blhd", weights, x[2])

    def error(num_features):
        directions = orthogonal_directions(1, num_features, 4, seed=5)
        features = (feature_map("favor+", y, directions) for y in x[:2])
        return (linear_attention(*features, x[2])[0] - expected).abs().max()

    assert error(65536) < 0.03 < 0.1 < error(4)


@pytest.mark.parametrize("std", [1, 2, 3, 4])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_favor_of_large_queries_and_keys(std, dtype):
    """Their features are as small as exp(-40), and sums of products of these smaller than fp32 has numbers."""
    generator = torch.Generator().manual_seed(1)
    queries, keys, values = (torch.randn(1, 24, 2, 64, generator=generator, dtype=torch.float64) for _ in range(3))
    queries, keys = (std * queries).requires_grad_(), (std * keys).requires_grad_()
    directions = orthogonal_directions(2, 64, 64, seed=1)
    plain = (feature_map("favor+", x, directions) for x in (queries, keys))
    expected = causal_linear_attention(*plain, values)
    weights = torch.randn(values.shape, generator=generator, dtype=torch.float64)
    expected_grads = torch.autograd.grad((expected * weights).sum(), (queries, keys))
    q = feature_map("favor+", queries.to(dtype), directions, of_queries=True)
    k = feature_map("favor+", keys.to(dtype), directions)
    output, _ = linear_attention(q, k, values.to(dtype))
    tolerance = {"rtol": 1e-8, "atol": 1e-8} if dtype == torch.float64 else {"rtol": 1e-3, "atol": 1e-4}
    torch.testing.assert_close(output.double(), expected, **tolerance)
    grads = torch.autograd.grad((output * weights.to(dtype)).sum(), (queries, keys))
    for grad, expected_grad in zip(grads, expected_grads):
        torch.testing.assert_close(grad, expected_grad, **tolerance)
    nothing = Sums(q.new_zeros(1, 2, 64, 64), q.new_zeros(1, 2, 64))
    step, _ = linear_attention_step(q[:, 0], k[:, 0], values[:, 0].to(dtype), nothing)
    torch.testing.assert_close(step.double(), values[:, 0], **tolerance)


def test_directions_are_orthogonal_in_blocks_and_depend_on_the_seed_alone():
    torch.manual_seed(1)
    first = orthogonal_directions(2, 10, 4, seed=7)
    torch.manual_seed(2)
    assert torch.equal(first, orthogonal_directions(2, 10, 4, seed=7))
    assert not torch.equal(first, orthogonal_directions(2, 10, 4, seed=8))
    block = first[1, 4:8].double()
    products = block @ block.T
    assert (products - products.diag().diag()).abs().max() < 1e-5


@pytest.mark.parametrize("attend", [linear_attention, linear_attention_chunked])
def test_no_positions(attend):
    with pytest.raises(ValueError, match=r"at least one position; keys have the shape \(2, 0, 3, 4\)"):
        attend(*(torch.ones(2, 0, 3, 4) for _ in range(3)))


def test_an_unknown_feature_map():
    with pytest.raises(ValueError, match=r"must be one of sqr, relu, elu\+1, favor\+; got 'exp'"):
        feature_map("exp", torch.ones(1, 1, 1, 1))
