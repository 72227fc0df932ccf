"""fairseq's encoders of speech: parts of a batch, and how long their output is."""

from __future__ import annotations

import pytest
import torch
from tiny import build_model, dictionary
from tiny_speech import ARCHITECTURES, WIDTH, build_speech_model, speech_batch

import fairseq_el
from fairseq_el.decoding import encode, encoded_length, run_encoder, unsupported_reasons
from fairseq_el.generation.batch import part_of, source_in

WORDS = dictionary()
LENGTHS = [[31, 30, 17, 6, 1], [8, 8, 8], [5], [23, 2]]


@pytest.fixture(params=ARCHITECTURES)
def model(request):
    return build_speech_model(request.param, WORDS, seed=1)


def assert_same_output(mine, theirs):
    """The same where nothing is padded, and the same mask."""
    memory, expected = mine["encoder_out"][0], theirs["encoder_out"][0]
    masks, expected_masks = mine["encoder_padding_mask"], theirs["encoder_padding_mask"]
    hidden = expected_masks[0] if expected_masks else torch.zeros(expected.shape[1::-1], dtype=torch.bool)
    found = masks[0] if masks else torch.zeros_like(hidden)
    assert torch.equal(found, hidden)
    visible = ~hidden.t()  # (n, B)
    torch.testing.assert_close(memory[visible], expected[visible], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
@pytest.mark.parametrize("max_tokens", [1, 70, 8192])
def test_parts_give_what_the_whole_batch_gives(model, lengths, max_tokens):
    net_input = speech_batch(lengths, seed=2)["net_input"]
    with torch.no_grad():
        mine = encode(model.encoder, net_input, net_input["src_tokens"], max_tokens)
        expected = model.encoder.forward_torchscript(net_input)
    assert_same_output(mine, expected)


@pytest.mark.parametrize("rows", [slice(0, 2), slice(2, 5), slice(4, 5)], ids=str)
def test_sentences_of_a_batch_without_its_longest_one(model, rows):
    """Stock's encoders fail with them, and without their padding they give something else."""
    sample = speech_batch(LENGTHS[0], seed=2)
    part = part_of(sample, rows, whole=None)["net_input"]
    with torch.no_grad():
        expected = model.encoder.forward_torchscript(sample["net_input"])
        mine = run_encoder(model.encoder, part)
    masks = expected["encoder_padding_mask"]
    cut = {"encoder_out": [expected["encoder_out"][0][:, rows]], "encoder_padding_mask": [mask[rows] for mask in masks]}
    assert_same_output(mine, cut)


@pytest.mark.parametrize(
    ("arch", "options"),
    [*((arch, {}) for arch in ARCHITECTURES), *(("s2t_transformer", {"conv_kernel_sizes": k}) for k in ("3", "5,5,5"))],
    ids=str,
)
def test_the_length_of_the_output(arch, options):
    encoder = build_speech_model(arch, WORDS, seed=1, **options).encoder
    for length in (1, 2, 3, 4, 5, 8, 9, 16, 17, 31):
        with torch.no_grad():
            out = encoder.forward_torchscript(speech_batch([length], seed=2)["net_input"])
        assert len(out["encoder_out"][0]) == encoded_length(encoder, length)


def test_the_length_of_words_is_the_output_s():
    assert encoded_length(build_model("transformer", WORDS, seed=1).encoder, 9) == 9


def test_supported_and_put_back(model):
    assert unsupported_reasons(model) == []
    own = [dict(vars(module)) for module in (model, model.encoder, model.decoder)]
    fairseq_el.enable_el_attention(model)
    assert fairseq_el.el_attention_enabled(model)
    fairseq_el.disable_el_attention(model)
    assert [dict(vars(module)) for module in (model, model.encoder, model.decoder)] == own


def test_others_of_speech_are_refused_with_their_task_named():
    model = build_speech_model("s2t_transformer", WORDS, seed=1)
    model.encoder.__class__ = type("OwnEncoder", (type(model.encoder),), {"reorder_encoder_out": lambda *a: None})
    with pytest.raises(fairseq_el.UnsupportedModelError) as refusal:
        fairseq_el.enable_el_attention(model)
    assert "its encoder OwnEncoder has its own reorder_encoder_out" in str(refusal.value)
    assert "--task speech_to_text instead of --task el_speech_to_text" in str(refusal.value)


def test_features_are_the_source():
    sample = speech_batch([4, 2], seed=1)
    assert source_in(sample).shape == (2, 4, WIDTH)
