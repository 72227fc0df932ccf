from __future__ import annotations

import pytest
import torch

from fairseq_el.decoding import SharedEncoderOut, share_encoder_out


def stock_encoder_out(padded=True):
    mask = torch.zeros(3, 5, dtype=torch.bool)
    if padded:
        mask[1, 3:] = True
    return {
        "encoder_out": [torch.randn(5, 3, 4)],
        "encoder_padding_mask": [mask],
        "encoder_embedding": [torch.randn(3, 5, 4)],
        "encoder_states": [torch.randn(5, 3, 4)],
        "fc_results": [None],
        "src_tokens": [],
        "src_lengths": [torch.tensor([[5], [3], [5]])],
    }


def expand(beam_size):
    return torch.arange(3).repeat_interleave(beam_size)


@pytest.mark.parametrize("beam_size", [1, 4])
def test_is_neither_expanded_nor_reordered_only_compacted(beam_size):
    stock = stock_encoder_out()
    shared = share_encoder_out(stock, expand(beam_size))
    assert torch.equal(shared["encoder_out"][0], stock["encoder_out"][0])
    assert shared["encoder_out"][0].transpose(0, 1).is_contiguous()
    assert torch.equal(shared["encoder_padding_mask"][0], stock["encoder_padding_mask"][0])
    assert not any(shared[key] for key in shared if key not in ("encoder_out", "encoder_padding_mask"))

    reordered = torch.arange(3 * beam_size).view(3, beam_size).flip(1).reshape(-1)  # beams change within sentences
    assert share_encoder_out(shared, reordered) is shared

    first_and_last = torch.cat([reordered[:beam_size], reordered[-beam_size:]])
    compacted = share_encoder_out(shared, first_and_last)
    assert torch.equal(compacted["encoder_out"][0], stock["encoder_out"][0][:, [0, 2]])
    assert compacted["encoder_out"][0].transpose(0, 1).is_contiguous()
    assert torch.equal(compacted["encoder_padding_mask"][0], stock["encoder_padding_mask"][0][[0, 2]])
    again = share_encoder_out(compacted, torch.arange(beam_size, 2 * beam_size))
    assert torch.equal(again["encoder_out"][0], stock["encoder_out"][0][:, [2]])


def test_a_mask_that_hides_nothing_is_dropped():
    shared = share_encoder_out(stock_encoder_out(padded=False), expand(2))
    assert shared["encoder_padding_mask"] == []
    assert share_encoder_out(shared, torch.tensor([4, 5]))["encoder_padding_mask"] == []


@pytest.mark.parametrize("order", [[0, 0, 2, 2, 1, 1], [0, 1, 2, 0, 1, 2], [2, 1, 0], [0, 1], [0, 0, 1, 1, 2]])
def test_orders_that_are_not_beams_are_refused(order):
    with pytest.raises(ValueError, match="once per beam"):
        share_encoder_out(stock_encoder_out(), torch.tensor(order))


def test_holds_one_tensor_and_its_mask():
    shared = SharedEncoderOut.from_stock(stock_encoder_out(), beam_size=2)
    tensors = [tensor for value in shared.values() for tensor in value]
    assert sum(t.numel() * t.element_size() for t in tensors) == 3 * 5 * 4 * 4 + 3 * 5
