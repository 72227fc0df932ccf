"""The encoder over parts of a batch, without its padding."""

from __future__ import annotations

import pytest
import torch
from tiny import batch, build_model, dictionary

from fairseq_el.decoding import encode
from fairseq_el.decoding.encoder import _cut

WORDS = dictionary()


@pytest.mark.parametrize("max_tokens", [1, 12, 8192])
@pytest.mark.parametrize("left_pad", [True, False])
@pytest.mark.parametrize("lengths", [[7, 7, 7], [9, 4, 3, 1], [1, 9, 2, 9]])
@pytest.mark.parametrize(
    "options",
    [
        {"encoder_normalize_before": True, "encoder_learned_pos": True, "activation_fn": "gelu"},
        {"encoder_normalize_before": False, "layernorm_embedding": True, "activation_fn": "relu"},
    ],
)
def test_equals_the_encoders_own_forward(max_tokens, left_pad, lengths, options):
    model = build_model("transformer", WORDS, seed=3, encoder_layers=2, **options)
    sample = batch(WORDS, lengths, 5, left_pad_source=left_pad)["net_input"]
    source = sample["src_tokens"]
    with torch.no_grad():
        mine = encode(model.encoder, sample, source, max_tokens)
        expected = model.encoder.forward_torchscript(sample)
    padded = source.eq(WORDS.pad())
    masks = mine["encoder_padding_mask"]
    assert torch.equal(masks[0], padded) if padded.any() else masks == []
    visible = ~padded.t()  # (n, B)
    torch.testing.assert_close(
        mine["encoder_out"][0][visible], expected["encoder_out"][0][visible], rtol=1e-10, atol=1e-10
    )
    assert mine["encoder_out"][0].isfinite().all()


def test_layers_that_have_something_else_in_them_are_stock():
    model = build_model("transformer", WORDS, seed=3)
    calls = []
    model.encoder.layers[0].fc1.register_forward_hook(lambda *_: calls.append(1))
    sample = batch(WORDS, [5, 3], 5)["net_input"]
    with torch.no_grad():
        out = encode(model.encoder, sample, sample["src_tokens"], 5)
    assert len(calls) == 2 and out["encoder_out"][0].shape[:2] == (5, 2)


def test_parts_leave_out_what_is_padded_in_all_of_their_sentences():
    padding = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 0, 0, 0], [0, 0, 0, 0, 0], [1, 1, 1, 1, 0]], dtype=torch.bool)
    parts = _cut(padding, max_tokens=6)
    assert [(part.rows, part.columns) for part in parts] == [
        (slice(0, 2), slice(2, 5)),
        (slice(2, 3), slice(0, 5)),
        (slice(3, 4), slice(4, 5)),
    ]
    assert [part.padding_mask is not None for part in parts] == [True, False, False]
    assert [part.rows for part in _cut(padding, max_tokens=20)] == [slice(0, 4)]
