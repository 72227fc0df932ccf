"""Which heads torch's fused attention takes, on this torch and this card."""

from __future__ import annotations

import pytest
import torch

from fairseq_el.planning import TorchAttention, torch_attention

P100, V100, T4, A100, H100 = (6, 0), (7, 0), (7, 5), (8, 0), (9, 0)


@pytest.mark.parametrize(
    ("version", "dtype", "card", "alignment"),
    [
        ("2.0.1+cu118", "fp16", A100, 0),  # no fused kernel takes a mask
        ("1.12.1", "fp32", V100, 0),
        *(
            ("2.1.0", dtype, A100, alignment)
            for dtype, alignment in [("fp16", 8), ("bf16", 8), ("fp32", 4), ("fp64", 0)]
        ),
        *(("2.10.0+cu128", dtype, V100, alignment) for dtype, alignment in [("fp16", 8), ("bf16", 0), ("fp32", 1)]),
        ("2.10.0+cu128", "fp16", T4, 8),
        ("2.13.0", "fp32", H100, 4),
        *(("2.7.1", dtype, P100, alignment) for dtype, alignment in [("fp16", 1), ("bf16", 0), ("fp32", 1)]),
    ],
)
def test_heads_that_are_fused_on_a_card(version, dtype, card, alignment, monkeypatch):
    monkeypatch.setattr(torch, "__version__", version)
    assert torch_attention("cuda", dtype, card).alignment == alignment


@pytest.mark.parametrize(("version", "alignment"), [("1.12.1", 0), ("2.2.2+cpu", 0), ("2.3.0", 1), ("2.13.0", 1)])
def test_heads_that_are_fused_on_a_cpu(version, alignment, monkeypatch):
    monkeypatch.setattr(torch, "__version__", version)
    assert torch_attention("cpu", "fp32").alignment == alignment


def test_the_card_here_is_asked(monkeypatch):
    monkeypatch.setattr(torch, "__version__", "2.10.0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: V100)
    assert torch_attention("cuda", "fp32").alignment == 1
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert torch_attention("cuda", "fp32").alignment == 4


@pytest.mark.parametrize(("version", "casts"), [("2.4.1", False), ("2.5.0", True)])
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_copies_in_float32(device, version, casts, monkeypatch):
    monkeypatch.setattr(torch, "__version__", version)
    assert torch_attention(device, "fp16").casts == casts


def test_widths_of_heads():
    assert [TorchAttention(alignment).fuses(20) for alignment in (0, 1, 4, 8)] == [False, True, True, False]
