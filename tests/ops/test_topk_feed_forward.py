from __future__ import annotations

import pytest
import reference
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from fairseq_el._compat import torch_version
from fairseq_el.measure import CAN_TRACK, PeakBytes
from fairseq_el.ops import topk_feed_forward

HAS_HALF = torch_version() >= (2, 1)  # on a CPU


def make_inputs(num_tokens, width, hidden_units, seed, dtype=torch.float64, biased=True):
    """x and what the layer learns."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()

    fc1_bias, fc2_bias = (draw(size) if biased else None for size in (hidden_units, width))
    return draw(num_tokens, width), draw(hidden_units, width), fc1_bias, draw(width, hidden_units), fc2_bias


def with_gradients(layer, inputs, towards, *arguments, **options):
    output = layer(*inputs, *arguments, **options)
    learned = [x for x in inputs if x is not None]
    return output, *torch.autograd.grad(output, learned, towards)


def assert_close(mine, expected):
    for one, other in zip(mine, expected):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-11)


@given(
    sizes=st.tuples(st.integers(1, 11), st.integers(1, 6), st.integers(1, 40)),
    k=st.integers(1, 44),
    activation=st.sampled_from(["relu", "gelu"]),
    biased=st.booleans(),
    chunk=st.integers(1, 12),
    seed=st.integers(0, 10**6),
)
def test_equals_the_twin_in_float64(sizes, k, activation, biased, chunk, seed):
    inputs = make_inputs(*sizes, seed, biased=biased)
    towards = torch.randn(sizes[:2], dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    mine = with_gradients(topk_feed_forward, inputs, towards, k, activation=activation, chunk=chunk)
    assert_close(mine, with_gradients(reference.topk_feed_forward, inputs, towards, k, activation=activation))
    with torch.no_grad():
        assert torch.equal(topk_feed_forward(*inputs, k, activation=activation, chunk=chunk), mine[0])


@pytest.mark.parametrize("activation", ["relu", "gelu"])
@pytest.mark.parametrize("k", [1, 4, 9])
def test_gradients_against_differences(activation, k):
    inputs = make_inputs(5, 3, 7, seed=1)
    assert torch.autograd.gradcheck(lambda *x: topk_feed_forward(*x, k, activation=activation, chunk=2), inputs)


@pytest.mark.parametrize("activation", ["relu", "gelu"])
def test_is_the_ordinary_layer_when_k_is_not_below_the_hidden_units(activation):
    x, fc1, fc1_bias, fc2, fc2_bias = inputs = make_inputs(12, 5, 9, seed=2)
    hidden = getattr(functional, activation)(functional.linear(x, fc1, fc1_bias))
    expected = functional.linear(hidden, fc2, fc2_bias).view(2, 6, 5)
    for k in (9, 50):
        output = topk_feed_forward(x.view(2, 6, 5), *inputs[1:], k, activation=activation, chunk=5)
        torch.testing.assert_close(output, expected, rtol=1e-10, atol=1e-12)


def test_of_equal_hidden_units_exactly_k_are_kept():
    fc1 = torch.ones(30, 4, dtype=torch.float64)  # 30 hidden units, all the same
    kept = topk_feed_forward(torch.ones(3, 4, dtype=torch.float64), fc1, None, torch.eye(30).double(), None, 7)
    assert kept.eq(4).sum(dim=1).tolist() == [7] * 3 and kept.eq(0).sum(dim=1).tolist() == [23] * 3


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16] if HAS_HALF else [torch.bfloat16])
@pytest.mark.parametrize("activation", ["relu", "gelu"])
def test_low_precision_error_is_at_most_twice_that_of_the_plain_computation(dtype, activation):
    inputs = make_inputs(150, 32, 200, seed=3, dtype=dtype)
    towards = torch.randn(150, 32, generator=torch.Generator().manual_seed(0)).to(dtype)
    exact_inputs = [x.detach().double().requires_grad_() for x in inputs]
    twin, options = reference.topk_feed_forward, {"activation": activation}
    exact = with_gradients(twin, exact_inputs, towards.double(), 20, **options)
    plain = with_gradients(twin, inputs, towards, 20, **options)
    mine = with_gradients(topk_feed_forward, inputs, towards, 20, chunk=40, **options)
    for one, other, truth in zip(mine, plain, exact):
        error, plain_error = ((x.double() - truth).abs().mean().item() for x in (one, other))
        assert error <= 2 * plain_error


def test_dropout_drops_activations_and_the_gradients_know_which():
    x, fc1, fc1_bias, fc2, fc2_bias = inputs = make_inputs(80, 6, 50, seed=4)
    probability, identity = 0.3, torch.eye(50, dtype=torch.float64)  # for W2: the output is then the activations

    def run(*rest):
        torch.manual_seed(11)
        return topk_feed_forward(x, fc1, fc1_bias, *rest, 20, activation="gelu", chunk=30, dropout=probability)

    undropped = topk_feed_forward(x, fc1, fc1_bias, identity, None, 20, activation="gelu")
    factors = (run(identity, None) / undropped).nan_to_num(0.0).detach()
    dropped = 1 - (factors > 0).sum().item() / (undropped != 0).sum().item()
    assert abs(dropped - probability) < 5 * (probability * (1 - probability) / (80 * 20)) ** 0.5

    towards = torch.randn(80, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    output = run(fc2, fc2_bias)
    expected = with_gradients(reference.topk_feed_forward, inputs, towards, 20, activation="gelu", factors=factors)
    assert_close((output, *torch.autograd.grad(output, inputs, towards)), expected)


def test_tokens_of_16_bits_under_autocast():
    """Weights stay float32 there; in the backward pass nothing is cast by itself."""
    x, *parameters = make_inputs(6, 5, 12, seed=1, dtype=torch.float32)
    x = x.detach().bfloat16().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        output = topk_feed_forward(x, *parameters, 4)
    found = torch.autograd.grad(output.float().sum(), [x, *parameters])
    exact_inputs = [t.detach().double().requires_grad_() for t in (x, *parameters)]
    exact = torch.autograd.grad(topk_feed_forward(*exact_inputs, 4).sum(), exact_inputs)
    for mine, expected in zip(found, exact):
        assert (mine.double() - expected).norm() < 0.05 * expected.norm()


@pytest.mark.skipif(not CAN_TRACK, reason="torch before 2.1 can't be asked how long a storage lives")
def test_live_bytes_are_those_of_one_chunk_and_of_k_activations_per_token():
    num_tokens, width, hidden_units, k, chunk = 4096, 8, 256, 8, 128
    inputs, counted = make_inputs(num_tokens, width, hidden_units, seed=5, dtype=torch.float32), PeakBytes()
    towards = torch.randn(num_tokens, width)
    with counted:
        output = topk_feed_forward(*inputs, k, chunk=chunk)
        kept = counted.total
        torch.autograd.grad(output, inputs, towards)
    assert kept == 4 * num_tokens * width + num_tokens * k * (4 + 2)  # the output; a hidden unit and its place
    of_weights = 4 * hidden_units * (2 * width + 1)
    assert counted.take() <= kept + 4 * num_tokens * width + 2 * of_weights + 3 * 4 * chunk * hidden_units


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"k": 0}, "k must be at least 1; got 0"),
        ({"chunk": 0}, "chunk must be at least 1; got 0"),
        ({"dropout": -0.1}, r"dropout must be at least 0 and below 1; got -0\.1"),
        ({"activation": "swish"}, "activation must be one of relu, gelu; got 'swish'"),
        ({"k": 0, "chunk": 0}, "k must be .*; chunk must be"),
    ],
)
def test_bad_arguments(change, message):
    inputs = make_inputs(2, 3, 4, seed=0)
    with pytest.raises(ValueError, match=message):
        topk_feed_forward(*inputs, **{"k": 2, **change})
