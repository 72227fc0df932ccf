"""Linear layers in 8 bits against the naive twin."""

from __future__ import annotations

import types

import pytest
import reference
import torch
from torch.nn import functional as F  # noqa: N812

from fairseq_el.ops import Int8Linear, int8_linear, why_no_int8

needs_int8 = pytest.mark.skipif(bool(why_no_int8("cpu")), reason=why_no_int8("cpu"))


@pytest.fixture(autouse=True)
def inference():
    torch.manual_seed(0)
    with torch.no_grad():
        yield


@needs_int8
@pytest.mark.parametrize("biased", [True, False])
@pytest.mark.parametrize(("rows", "width", "outputs"), [(1, 8, 8), (5, 24, 12), (3, 7, 33)])
def test_equals_the_naive_twin(rows, width, outputs, biased):
    x, weight = torch.randn(rows, width) * 10.0 ** torch.arange(-3, rows - 3).unsqueeze(1), torch.randn(outputs, width)
    bias = torch.randn(outputs) if biased else None
    torch.testing.assert_close(Int8Linear(weight, bias)(x).double(), reference.int8_linear(x, weight, bias))


@needs_int8
@pytest.mark.parametrize(("name", "function"), [("none", lambda y: y), ("relu", F.relu), ("gelu", F.gelu)])
def test_shape_and_activation(name, function):
    layer, x = Int8Linear(torch.randn(6, 4), torch.randn(6)), torch.randn(2, 3, 4)
    expected = layer(x.view(6, 4))
    torch.testing.assert_close(layer(x, name), function(expected).view(2, 3, 6))
    assert layer.size_bytes() == 6 * 4 + 8 * 6


@needs_int8
def test_is_close_to_the_layer_and_rows_do_not_depend_on_each_other():
    weight, bias, x = torch.randn(96, 256) / 16, torch.randn(96), torch.randn(40, 256)
    layer = Int8Linear(weight, bias)
    y = layer(x)
    error = (y - F.linear(x, weight, bias)).abs().mean()
    assert 0 < error < 0.02  # of outputs of about 1
    assert torch.equal(y[7:8], layer(x[7:8])) and torch.equal(y[:3], layer(torch.cat([x[:3], 1000 * x]))[:3])


@needs_int8
def test_zeros_and_numbers_that_are_not_finite():
    weight, bias = torch.randn(4, 8), torch.randn(4)
    weight[1] = 0.0
    weight[2, 3] = float("nan")
    x = torch.randn(3, 8)
    x[0], x[1, 2] = 0.0, float("inf")
    y = Int8Linear(weight, bias)(x, "relu")
    assert torch.equal(y[0, [0, 1, 3]], bias[[0, 1, 3]].relu()) and torch.equal(y[2, 1], bias[1].relu())
    assert not y[1].isfinite().any() and not y[:, 2].isfinite().any()


def test_why_not():
    assert why_no_int8("cuda") == "the model is on cuda, and products in 8 bits are for a CPU"


@pytest.mark.parametrize(
    ("operators", "expected"),
    [
        ({}, f"torch {torch.__version__} has no operator for such products; newer ones have"),
        ({"qlinear_prepack": lambda *_: 1 / 0}, f"torch {torch.__version__} has no operator for such products"),
        ({"qlinear_pointwise": "fails", "qlinear_prepack": lambda w, _: w}, f"torch {torch.__version__} fails at them"),
        (
            {"qlinear_pointwise": "saturates", "qlinear_prepack": lambda w, _: w},
            "this processor has no exact products in 8 bits (AVX512-VNNI or AVX-VNNI)",
        ),
    ],
)
def test_a_torch_or_a_processor_that_lacks_them(monkeypatch, operators, expected):
    def fails(*_):
        raise RuntimeError("expected at most 3 arguments\nmore")

    def saturates(x, *_):
        return torch.full((len(x), 2), 32767.0)

    own = {"fails": fails, "saturates": saturates}
    known = {name: own.get(operator, operator) for name, operator in operators.items()}
    monkeypatch.setattr(int8_linear.torch.ops, "onednn", types.SimpleNamespace(**known))
    assert why_no_int8.__wrapped__("cpu").startswith(expected)
