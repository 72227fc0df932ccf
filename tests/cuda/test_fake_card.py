"""The modules on device cuda in half precision: nothing mixes devices, nothing makes the host wait inside a step.

Needs no card: fake tensors of a CUDA build of torch raise at both. Skipped on a CPU build, and before torch 2.10, the
oldest that was tried and does not abort the process without a card (2.6 does).
"""

from __future__ import annotations

import contextlib

import pytest
import torch
from fairseq.modules import MultiheadAttention
from fairseq.search import BeamSearch
from tiny import build_language_model, build_model, build_slim_performer, dictionary

from fairseq_el._compat import torch_version
from fairseq_el.decoding import (
    DecodeState,
    ELCrossAttention,
    ELSelfAttention,
    KVSelfAttention,
    SharedEncoderOut,
    decode_prompts,
    decode_step,
    enable_el_attention,
    share_encoder_out,
)
from fairseq_el.generation.hypotheses import Beams, Candidates, best_candidates
from fairseq_el.ops import as_bias, block_repeated_ngrams, kv_attention, log_probabilities

with contextlib.suppress(ImportError):  # torch 1.12: skipped below
    from torch._subclasses.fake_tensor import FakeTensorMode, unset_fake_temporarily

TORCH = torch_version()
pytestmark = pytest.mark.skipif(
    torch.version.cuda is None or TORCH < (2, 10), reason="needs a CUDA build of torch 2.10 or later (but no card)"
)

NUM_SENTENCES, NUM_BEAMS, SRC_LEN, WIDTH = 3, 4, 7, 32


@pytest.fixture
def fake_cuda():
    with FakeTensorMode():
        yield torch.device("cuda")


def shared_encoder_out(device):
    memory = torch.randn(NUM_SENTENCES, SRC_LEN, WIDTH, device=device, dtype=torch.float16)
    padding_mask = torch.zeros(NUM_SENTENCES, SRC_LEN, dtype=torch.bool, device=device)
    return SharedEncoderOut(memory, padding_mask, NUM_BEAMS)


def put_on(device, module):
    """Replaces every parameter and buffer by a fake one on the device, in float16."""
    for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
        owner, _, attribute = name.rpartition(".")
        on_device = torch.empty(tensor.shape, device=device, dtype=torch.float16)
        if isinstance(tensor, torch.nn.Parameter):
            on_device = torch.nn.Parameter(on_device)
        setattr(module.get_submodule(owner), attribute, on_device)
    return module.eval()


@pytest.mark.parametrize("backend", ["el", "shared-kv"])
@pytest.mark.parametrize("self_attention", ["el", "kv"])
@pytest.mark.parametrize("architecture", ["transformer", "transformer_lm"])
def test_prompts_steps_and_the_choice_of_candidates(self_attention, architecture, backend, fake_cuda):
    """The decoder over a prompt and three steps, and all that happens to beams in between."""
    words = dictionary()
    with unset_fake_temporarily():
        if architecture == "transformer":
            model = build_model(architecture, words, seed=1, encoder_embed_dim=WIDTH, decoder_learned_pos=True)
        else:
            model = build_language_model(
                words, seed=1, decoder_learned_pos=True, share_decoder_input_output_embed=False
            )
    enable_el_attention(model, self_attention=self_attention)
    put_on(fake_cuda, model)
    encoder_out = shared_encoder_out(fake_cuda) if architecture == "transformer" else None
    first = torch.full((NUM_SENTENCES,), words.eos(), device=fake_cuda)
    beams = Beams(NUM_SENTENCES, NUM_BEAMS, 9, words.pad(), first, fake_cuda)
    state = DecodeState(NUM_SENTENCES, NUM_BEAMS, backend=backend)
    incremental_state = {}
    state.put_into(incremental_state)
    lengths = torch.full((NUM_SENTENCES,), 3, device=fake_cuda)
    prompts = beams.tokens[::NUM_BEAMS, :3]
    with torch.no_grad():
        for part in (slice(0, 2), slice(2, 3)):
            decode_prompts(model.decoder, prompts[part], encoder_out, incremental_state, lengths, part)
        for step in range(3, 6):
            output = decode_step(model.decoder, beams.tokens[:, : step + 1], encoder_out, incremental_state)
            log_probs = model.get_normalized_probs((model.decoder.output_layer(output.features), None), log_probs=True)
            search = BeamSearch(words)
            found = Candidates(
                *search.step(
                    step,
                    log_probs.view(NUM_SENTENCES, NUM_BEAMS, -1),
                    beams.scores.view(NUM_SENTENCES, NUM_BEAMS, -1)[:, :, :step],
                )
            )
            ended = found.tokens.eq(words.eos())
            _, parents = beams.advance(step, found, ended)
            first = torch.arange(NUM_SENTENCES, device=fake_cuda).unsqueeze(1) * NUM_BEAMS
            state.reorder((parents + first).view(-1))
    assert output.features.device.type == "cuda" and output.features.dtype == torch.float16
    assert state.tree.num_nodes == 3 + 3 * NUM_BEAMS and beams.tokens.device.type == "cuda"
    kind = {"el": ELSelfAttention, "kv": KVSelfAttention}[self_attention]
    assert all(type(layer.self_attn) is kind for layer in model.decoder.layers)


@pytest.mark.parametrize("feature_map", ["favor+", "relu"])
def test_steps_of_a_slim_performer(feature_map, fake_cuda):
    """The host waits in none of them; it waits once in a prompt, to learn whether prompts are padded."""
    words = dictionary()
    with unset_fake_temporarily():
        model = build_slim_performer(words, seed=1, feature_map=feature_map)
    put_on(fake_cuda, model)
    tokens = torch.full((NUM_SENTENCES * NUM_BEAMS, 4), words.eos(), device=fake_cuda)
    incremental_state = {}
    with torch.no_grad():
        for step in range(4):
            logits, _ = model.decoder(tokens[:, : step + 1], incremental_state=incremental_state)
            order = torch.arange(NUM_SENTENCES * NUM_BEAMS, device=fake_cuda)
            model.decoder.reorder_incremental_state(incremental_state, order)
    assert logits.shape == (NUM_SENTENCES * NUM_BEAMS, 1, len(words)) and logits.device.type == "cuda"
    with pytest.raises(Exception, match="_local_scalar_dense"):
        model.decoder(tokens, incremental_state={})


def test_the_best_words_of_a_large_vocabulary(fake_cuda):
    """What a step of plain beam search does with its logits: softmax, blocked n-grams, candidates."""
    rows, vocab_size = NUM_SENTENCES * NUM_BEAMS, 50_264
    log_probs = log_probabilities(torch.randn(rows, vocab_size, device=fake_cuda, dtype=torch.float16))
    block_repeated_ngrams(log_probs, torch.zeros(rows, 9, dtype=torch.long, device=fake_cuda), 3)
    for scores in (None, torch.zeros(rows, device=fake_cuda)):
        for found in best_candidates(log_probs, scores, None, NUM_BEAMS):
            assert found.shape == (NUM_SENTENCES, 2 * NUM_BEAMS) and found.device.type == "cuda"


@pytest.mark.parametrize(
    ("dtype", "width", "is_masked", "computed"),
    [
        (torch.float16, 4, True, 8),
        (torch.bfloat16, 12, True, 16),
        (torch.float16, 8, True, 8),
        (torch.float16, 4, False, 4),  # flash attention, which adds zeros by itself
        (torch.float32, 4, True, 4),
    ],
)
def test_the_width_of_heads_in_attention(dtype, width, is_masked, computed, fake_cuda, monkeypatch):
    """No fused kernel takes heads of another width under a mask."""
    sdpa, widths = torch.nn.functional.scaled_dot_product_attention, []

    def fused(query, key, value, **options):
        widths.append([x.size(-1) for x in (query, key, value)])
        return sdpa(query, key, value, **options)

    monkeypatch.setattr("torch.nn.functional.scaled_dot_product_attention", fused)
    query = torch.randn(NUM_SENTENCES, NUM_BEAMS, 2, width, device=fake_cuda, dtype=dtype)
    key, value = torch.randn(2, NUM_SENTENCES, 2, SRC_LEN, width, device=fake_cuda, dtype=dtype)
    hidden = torch.zeros(NUM_SENTENCES, NUM_BEAMS, SRC_LEN, dtype=torch.bool, device=fake_cuda)
    output = kv_attention(query, key, value, as_bias(hidden, dtype) if is_masked else None, torch.float32)
    assert output.shape == query.shape and output.device.type == "cuda" and output.dtype == dtype
    assert widths == [[computed] * 3]


def test_a_step_of_attention_and_a_compaction(fake_cuda):
    attention = MultiheadAttention(WIDTH, 4, kdim=WIDTH, vdim=WIDTH, encoder_decoder_attention=True)
    attention.__class__ = ELCrossAttention
    put_on(fake_cuda, attention)

    shared = shared_encoder_out(fake_cuda)
    query = torch.randn(1, NUM_SENTENCES * NUM_BEAMS, WIDTH, device=fake_cuda, dtype=torch.float16)
    memory, mask = shared["encoder_out"][0], shared["encoder_padding_mask"][0]
    output, weights = attention(query, memory, memory, mask, {}, static_kv=True, need_head_weights=True)
    assert output.shape == query.shape and output.dtype == torch.float16 and output.device.type == "cuda"
    assert weights.shape == (4, NUM_SENTENCES * NUM_BEAMS, 1, SRC_LEN) and weights.device.type == "cuda"

    compacted = share_encoder_out(shared, torch.arange(2 * NUM_BEAMS, device=fake_cuda))
    assert compacted["encoder_out"][0].shape == (SRC_LEN, 2, WIDTH)
    assert compacted["encoder_out"][0].device.type == "cuda"


def test_fake_tensors_would_notice(fake_cuda):
    """The check of this file's own instrument: waiting for the device and mixing devices do raise."""
    shared = shared_encoder_out(fake_cuda)
    with pytest.raises(Exception, match="_local_scalar_dense"):
        bool(shared["encoder_padding_mask"][0].any())
    with pytest.raises(Exception, match="device"):
        shared["encoder_out"][0] + torch.ones(SRC_LEN, NUM_SENTENCES, WIDTH)
