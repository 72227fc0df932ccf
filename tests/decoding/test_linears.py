"""Linear layers while decoding: packed where it pays, never stale."""

from __future__ import annotations

import pytest
import torch
from fairseq.modules import gelu
from torch import nn
from torch.nn import functional as F  # noqa: N812

from fairseq_el import policy
from fairseq_el.decoding import Linears, why_not_in_int8
from fairseq_el.ops import Int8Linear, PackedLinear, can_pack, why_no_int8
from fairseq_el.policy import LEAST_PACKED, should_pack

needs_packing = pytest.mark.skipif(not can_pack("cpu", torch.float32), reason="this torch packs no weights")


@pytest.fixture(autouse=True)
def inference():
    torch.manual_seed(0)
    with torch.no_grad():
        yield


@pytest.fixture
def packs_small(monkeypatch):
    monkeypatch.setattr(policy, "LEAST_PACKED", 1)


@pytest.mark.usefixtures("packs_small")
@pytest.mark.parametrize("num_uses", [32, 0])
@pytest.mark.parametrize("activation", [None, F.relu, gelu, torch.tanh])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_is_the_layer_and_its_activation(num_uses, activation, dtype):
    layer, x = nn.Linear(8, 12).to(dtype), torch.randn(3, 5, 8, dtype=dtype)
    expected = layer(x) if activation is None else activation(layer(x))
    torch.testing.assert_close(Linears(15, num_uses)(layer, x, activation), expected)


@pytest.mark.usefixtures("packs_small")
@pytest.mark.parametrize("num_uses", [32, 0])
@pytest.mark.parametrize("biases", [(True, True), (True, False), (False, False)])
def test_layers_together(num_uses, biases):
    layers, x = [nn.Linear(8, 12, bias=bias) for bias in biases], torch.randn(3, 5, 8)
    for found, layer in zip(Linears(15, num_uses).project_together(layers, x), layers):
        torch.testing.assert_close(found, layer(x))


@needs_packing
@pytest.mark.usefixtures("packs_small")
def test_a_weight_that_changes_is_packed_again():
    layer, x = nn.Linear(8, 8), torch.randn(4, 8)
    linears = Linears(4, num_uses=32)
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
@pytest.mark.usefixtures("packs_small")
def test_other_modules_and_hooks_are_called():
    class Doubled(nn.Linear):
        def forward(self, x):
            return 2 * super().forward(x)

    hooked, x = nn.Linear(8, 8), torch.randn(4, 8)
    hooked.register_forward_hook(lambda module, inputs, output: output + 1)
    linears = Linears(4, num_uses=32)
    for layer in (Doubled(8, 8), hooked):
        torch.testing.assert_close(linears(layer, x), layer(x))
    torch.testing.assert_close(linears.project_together((hooked, hooked), x)[1], hooked(x))
    assert linears.size_bytes() == 0


@needs_packing
@pytest.mark.usefixtures("packs_small")
def test_nothing_is_packed_where_gradients_are_wanted():
    layer, linears = nn.Linear(8, 8), Linears(4, num_uses=32)
    with torch.enable_grad():
        linears(layer, torch.randn(4, 8)).sum().backward()
    assert layer.weight.grad is not None and linears.size_bytes() == 0


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_which_weights_are_packed(dtype):
    large, least = 1 << 24, LEAST_PACKED
    assert should_pack(dtype, num_rows=4, size=large, num_uses=32)
    assert not should_pack(dtype, num_rows=3, size=large, num_uses=32)
    assert not should_pack(dtype, num_rows=4, size=large, num_uses=31)
    assert should_pack(dtype, num_rows=2048, size=large, num_uses=4) == (dtype == "bf16")
    assert should_pack(dtype, num_rows=5, size=least // 5, num_uses=32)
    assert should_pack(dtype, num_rows=5, size=least // 5 - 1, num_uses=32) == (dtype == "bf16")


@needs_packing
def test_every_product_is_packed_by_its_own_size(monkeypatch):
    """A small layer beside a large one, and the large one with few rows, for which there is a copy already."""
    monkeypatch.setattr(policy, "LEAST_PACKED", 8 * 64 * 64)
    small, large, linears = nn.Linear(64, 32), nn.Linear(64, 64), Linears(num_rows=8, num_uses=32)
    used = []
    monkeypatch.setattr(PackedLinear, "__call__", lambda self, x, *more: used.append(len(x)) or torch.zeros(0))
    for num_rows in (8, 4, 100, 1024, 3):
        x = torch.randn(num_rows, 64)
        linears(small, x[:8])
        linears(large, x)
    assert used == [8, 100] and linears.size_bytes() == 4 * (64 * 64 + 64)
    linears.project_together((small, small), torch.randn(8, 64))  # two that are small make one that is not
    assert used == [8, 100, 8]


@needs_packing
def test_a_copy_is_made_for_the_rows_of_steps_and_not_for_those_of_a_prompt(monkeypatch):
    monkeypatch.setattr(policy, "LEAST_PACKED", 8 * 64 * 64)
    layer, linears = nn.Linear(64, 64), Linears(num_rows=7, num_uses=10_000)
    linears(layer, torch.randn(500, 64))
    assert linears.size_bytes() == 0
    linears.num_rows = 8  # a larger batch
    linears(layer, torch.randn(8, 64))
    assert linears.size_bytes() > 0


class TestInt8:
    """Weights in 8 bits."""

    @pytest.fixture(autouse=True)
    def needs_int8(self):
        if why_no_int8("cpu"):
            pytest.skip(why_no_int8("cpu"))

    @pytest.mark.parametrize("num_rows", [1, 2000])
    @pytest.mark.parametrize("activation", [None, F.relu, gelu, torch.tanh])
    def test_every_product_is_from_a_copy(self, num_rows, activation):
        layer, x = nn.Linear(8, 12), torch.randn(num_rows, 8)
        linears = Linears(num_rows, int8=True)
        expected = Int8Linear(layer.weight, layer.bias)(x)
        torch.testing.assert_close(
            linears(layer, x, activation), expected if activation is None else activation(expected)
        )
        torch.testing.assert_close(linears.once(layer, x), expected)
        assert linears.of_encoder(5, 1) is linears and linears.size_bytes() == 8 * 12 + 8 * 12
        assert not torch.equal(expected, layer(x))

    def test_layers_together_are_what_they_are_alone(self):
        layers, x, linears = (
            [nn.Linear(8, 12, bias=bias) for bias in (True, False)],
            torch.randn(3, 5, 8),
            Linears(15, int8=True),
        )
        for found, layer in zip(linears.project_together(layers, x), layers):
            torch.testing.assert_close(found, linears(layer, x))

    def test_a_weight_that_changes_is_copied_again(self):
        layer, x, linears = nn.Linear(8, 8), torch.randn(4, 8), Linears(4, int8=True)
        before = linears(layer, x)
        layer.weight.mul_(2.0)
        layer.bias.mul_(2.0)
        torch.testing.assert_close(linears(layer, x), 2 * before)

    def test_what_stays_as_it_is(self):
        """Subclasses, float64, and where gradients are wanted."""
        layer, x, linears = nn.Linear(8, 8), torch.randn(4, 8), Linears(4, int8=True)
        with torch.enable_grad():
            linears(layer, x).sum().backward()
        double = nn.Linear(8, 8).double()
        assert torch.equal(linears(double, x.double()), double(x.double()))
        assert layer.weight.grad is not None and linears.size_bytes() == 0

    def test_why_not(self):
        assert why_not_in_int8(nn.Linear(2, 2)) == ""
        assert why_not_in_int8(nn.Linear(2, 2).double()) == (
            "the model is in float64, and must be in float32 (--el-dtype fp32)"
        )


def test_without_int8_what_happens_once_is_not_copied():
    layer, x, linears = nn.Linear(8, 8), torch.randn(2000, 8), Linears(2000, num_uses=10_000)
    assert torch.equal(linears.once(layer, x), layer(x))
    assert linears.of_encoder(5, 1) is not linears and linears.size_bytes() == 0
