"""Linear layers while decoding: packed where it pays, never stale."""

from __future__ import annotations

import pytest
import torch
from fairseq.modules import gelu
from torch import nn
from torch.nn import functional as F  # noqa: N812

from fairseq_el.modules import Linears, worth_packing
from fairseq_el.ops import can_pack

needs_packing = pytest.mark.skipif(not can_pack("cpu", torch.float32), reason="this torch packs no weights")


@pytest.fixture(autouse=True)
def inference():
    torch.manual_seed(0)
    with torch.no_grad():
        yield


@pytest.mark.parametrize("pack", [True, False])
@pytest.mark.parametrize("activation", [None, F.relu, gelu, torch.tanh])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_is_the_layer_and_its_activation(pack, activation, dtype):
    layer, x = nn.Linear(8, 12).to(dtype), torch.randn(3, 5, 8, dtype=dtype)
    expected = layer(x) if activation is None else activation(layer(x))
    torch.testing.assert_close(Linears(15, pack)(layer, x, activation), expected)


@pytest.mark.parametrize("pack", [True, False])
@pytest.mark.parametrize("biases", [(True, True), (True, False), (False, False)])
def test_layers_together(pack, biases):
    layers, x = [nn.Linear(8, 12, bias=bias) for bias in biases], torch.randn(3, 5, 8)
    for found, layer in zip(Linears(15, pack).together(layers, x), layers):
        torch.testing.assert_close(found, layer(x))


@needs_packing
def test_a_weight_that_changes_is_packed_again():
    layer, x = nn.Linear(8, 8), torch.randn(4, 8)
    linears = Linears(4, pack=True)
    for change in (
        lambda: layer.weight.mul_(2.0),
        lambda: layer.load_state_dict(nn.Linear(8, 8).state_dict()),
        lambda: setattr(layer, "bias", nn.Parameter(torch.randn(8))),
        lambda: setattr(layer, "bias", None),
    ):
        torch.testing.assert_close(linears(layer, x), layer(x))
        change()
        torch.testing.assert_close(linears(layer, x), layer(x))
    assert linears.size_bytes() == 4 * 64


@needs_packing
def test_other_modules_and_hooks_are_called():
    class Doubled(nn.Linear):
        def forward(self, x):
            return 2 * super().forward(x)

    hooked, x = nn.Linear(8, 8), torch.randn(4, 8)
    hooked.register_forward_hook(lambda module, inputs, output: output + 1)
    linears = Linears(4, pack=True)
    for layer in (Doubled(8, 8), hooked):
        torch.testing.assert_close(linears(layer, x), layer(x))
    torch.testing.assert_close(linears.together((hooked, hooked), x)[1], hooked(x))
    assert linears.size_bytes() == 0


@needs_packing
def test_nothing_is_packed_where_gradients_are_wanted():
    layer, linears = nn.Linear(8, 8), Linears(4, pack=True)
    with torch.enable_grad():
        linears(layer, torch.randn(4, 8)).sum().backward()
    assert layer.weight.grad is not None and linears.size_bytes() == 0


def test_worth_packing():
    assert worth_packing(torch.float32, num_rows=4, num_uses=64)
    assert worth_packing(torch.bfloat16, num_rows=64, num_uses=64)
    assert worth_packing(torch.bfloat16, num_rows=4, num_uses=64)
    assert not worth_packing(torch.bfloat16, num_rows=3, num_uses=64)
    assert not worth_packing(torch.float32, num_rows=4, num_uses=31)
    assert worth_packing(torch.bfloat16, num_rows=2048, num_uses=4)
    assert not worth_packing(torch.float32, num_rows=2048, num_uses=64)
