"""The training algorithm on a small network of linear attention: the same gradients as the sequence in one piece."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from fairseq_el.ops import FEATURE_MAPS, attend_within, feature_map, orthogonal_directions, sliced_loss

WIDTH, HEADS = 6, 2


class Network(nn.Module):
    def __init__(self, num_layers, name, dtype=torch.float64):
        super().__init__()
        torch.manual_seed(num_layers)
        self.name = name
        self.layers = nn.ModuleList([nn.Linear(WIDTH, 3 * WIDTH) for _ in range(num_layers)])
        self.directions = orthogonal_directions(HEADS, 5, WIDTH // HEADS, seed=1)
        self.to(dtype)

    def forward(self, x, hidden, attend):
        """The loss of a slice. ``hidden``: True at padding, which no position sees and which has no loss."""
        for number, layer in enumerate(self.layers):
            query, key, value = layer(x).view(*x.shape[:2], 3, HEADS, -1).unbind(dim=2)
            key = feature_map(self.name, key, self.directions).masked_fill(hidden[..., None, None], 0)
            x = x + attend(number, feature_map(self.name, query, self.directions), key, value).flatten(2)
        return (x.masked_fill(hidden.unsqueeze(2), 0) ** 3).sum()

    def gradients(self, x, hidden, slice_length):
        """Of the loss by all parameters, and the loss; in one piece for ``slice_length`` 0."""
        self.zero_grad()
        if slice_length == 0:
            loss = self(x, hidden, attend_within)
        else:
            parts = list(zip(x.split(slice_length, dim=1), hidden.split(slice_length, dim=1)))
            loss = sliced_loss(lambda index, attend: self(*parts[index], attend), len(parts))
        (2 * loss).backward()
        return [parameter.grad.clone() for parameter in self.parameters()], loss.detach()


@pytest.mark.parametrize("name", FEATURE_MAPS)
@pytest.mark.parametrize("num_layers", [1, 2, 3])
def test_equals_the_sequence_in_one_piece_for_every_slice_length(name, num_layers):
    length = 11
    network = Network(num_layers, name)
    x = torch.randn(2, length, WIDTH, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    hidden = torch.zeros(2, length, dtype=torch.bool)
    hidden[0, 7:] = hidden[1, 3] = True
    expected, expected_loss = network.gradients(x, hidden, 0)
    for slice_length in range(1, length + 1):
        grads, loss = network.gradients(x, hidden, slice_length)
        torch.testing.assert_close(loss, expected_loss, rtol=1e-12, atol=1e-12)
        for grad, full in zip(grads, expected):
            assert (grad - full).abs().max() <= 1e-9 * max(full.abs().max(), 1), slice_length


def test_frozen_layers():
    """Those whose sums nothing trainable feeds into."""
    network = Network(2, "sqr")
    x, hidden = torch.randn(1, 5, WIDTH, dtype=torch.float64), torch.zeros(1, 5, dtype=torch.bool)
    full, _ = network.gradients(x, hidden, 0)
    network.zero_grad(set_to_none=True)
    network.layers[0].requires_grad_(False)
    parts = list(zip(x.split(2, dim=1), hidden.split(2, dim=1)))
    (2 * sliced_loss(lambda index, attend: network(*parts[index], attend), len(parts))).backward()
    assert network.layers[0].weight.grad is None
    torch.testing.assert_close(network.layers[1].weight.grad, full[2], rtol=1e-10, atol=1e-10)


def test_without_gradients_there_is_only_the_loss():
    network = Network(2, "sqr")
    x, hidden = torch.randn(1, 5, WIDTH, dtype=torch.float64), torch.zeros(1, 5, dtype=torch.bool)
    with torch.no_grad():
        loss = sliced_loss(lambda index, attend: network(x[:, index : index + 1], hidden[:, :1], attend), 5)
        torch.testing.assert_close(loss, network(x, hidden, attend_within))
    assert not loss.requires_grad


def test_in_float32_gradients_do_not_drift_with_the_number_of_slices():
    """512 slices: the sums at the beginning come back as they were."""
    network = Network(2, "sqr", torch.float32)
    x = torch.randn(1, 1024, WIDTH, generator=torch.Generator().manual_seed(1))
    hidden = torch.zeros(1, 1024, dtype=torch.bool)
    expected, _ = Network(2, "sqr").gradients(x.double(), hidden, 0)
    plain, _ = network.gradients(x, hidden, 0)
    sliced, _ = network.gradients(x, hidden, 2)
    for exact, mine, theirs in zip(expected, sliced, plain):
        limit = (theirs.double() - exact).abs().max() + 1e-6 * exact.abs().max()
        assert (mine.double() - exact).abs().max() <= 4 * limit
