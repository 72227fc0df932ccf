from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

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
from fairseq_el.ops.reference import causal_linear_attention

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


def test_a_query_that_no_key_answers_gets_zeros_and_finite_gradients():
    queries, keys, values = (x.requires_grad_() for x in make_inputs((1, 4, 1, 2), "sqr", seed=1))
    output, _ = linear_attention(queries * 0, keys, values)
    assert torch.equal(output, torch.zeros_like(values))
    output, _ = linear_attention(queries, keys * 0, values)
    assert torch.equal(output, torch.zeros_like(values))
    output.sum().backward()
    assert all(x.grad is None or x.grad.isfinite().all() for x in (queries, keys, values))


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


def test_directions_are_orthogonal_in_blocks_and_depend_on_the_seed_alone():
    torch.manual_seed(1)
    first = orthogonal_directions(2, 10, 4, seed=7)
    torch.manual_seed(2)
    assert torch.equal(first, orthogonal_directions(2, 10, 4, seed=7))
    assert not torch.equal(first, orthogonal_directions(2, 10, 4, seed=8))
    block = first[1, 4:8].double()
    products = block @ block.T
    assert (products - products.diag().diag()).abs().max() < 1e-5


def test_an_unknown_feature_map():
    with pytest.raises(ValueError, match=r"must be one of sqr, relu, elu\+1, favor\+; got 'exp'"):
        feature_map("exp", torch.ones(1, 1, 1, 1))
