"""Linear layers with packed weights."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F  # noqa: N812

from fairseq_el.ops import PackedLinear, can_pack

FUNCTIONS = {"none": lambda x: x, "relu": F.relu, "gelu": F.gelu}
DTYPES = [torch.float32, torch.bfloat16, torch.float16]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("activation", FUNCTIONS)
@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize("rows", [1, 7, 64])
def test_error_against_float64(dtype, activation, with_bias, rows):
    if not can_pack("cpu", dtype):
        pytest.skip(f"this torch or processor packs no {dtype} weights")
    generator = torch.Generator().manual_seed(rows)
    x, weight, bias = (torch.randn(shape, generator=generator).to(dtype) for shape in ((rows, 48), (80, 48), (80,)))
    bias = bias if with_bias else None
    packed = PackedLinear(weight, bias, num_rows=64)(x, activation)
    plain = FUNCTIONS[activation](F.linear(x, weight, bias))
    exact = FUNCTIONS[activation](F.linear(x.double(), weight.double(), None if bias is None else bias.double()))
    assert packed.dtype == dtype and packed.shape == plain.shape
    if dtype == torch.float32:  # sums in another order
        torch.testing.assert_close(packed, plain)
    else:
        assert rms(packed - exact) <= 2 * rms(plain - exact)


@pytest.mark.parametrize("activation", FUNCTIONS)
@pytest.mark.parametrize("damaged", ["weight", "bias"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_damaged_weights_show_as_in_torch(damaged, value, activation):
    """oneDNN's ReLU makes 0 of NaN, so that a damaged model would go on as if nothing were wrong."""
    if not can_pack("cpu", torch.float32):
        pytest.skip("this torch or processor packs no weights")
    x, weight, bias = torch.tensor([[1.0, 0.0], [-1.0, 2.0]]), torch.ones(3, 2), torch.zeros(3)
    {"weight": weight, "bias": bias}[damaged].view(-1)[1] = value
    packed = PackedLinear(weight, bias, num_rows=64)(x, activation)
    torch.testing.assert_close(packed, FUNCTIONS[activation](F.linear(x, weight, bias)), equal_nan=True)


def rms(x: torch.Tensor) -> float:
    return float(x.double().square().mean().sqrt())


def test_what_can_be_packed():
    assert not can_pack("cpu", torch.float64)
    assert not can_pack("cuda", torch.float16)
