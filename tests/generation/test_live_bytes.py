"""Bytes of live tensors during decoding, counted."""

from __future__ import annotations

import gc
from argparse import Namespace

import pytest
import torch
from fairseq.sequence_generator import SequenceGenerator
from tiny import TinyELTask, batch, build_model, dictionary

import fairseq_el
from fairseq_el.generation import ELSequenceGenerator

WORDS = dictionary()
SRC_LEN, WIDTH, NUM_SENTENCES = 61, 64, 3
BYTES = 8  # float64
ENCODER_OUT_BYTES = NUM_SENTENCES * SRC_LEN * WIDTH * BYTES


def live_storages() -> dict[int, int]:
    """Address to bytes of the storage of every live tensor."""
    storages = {}
    for thing in gc.get_objects():
        if type(thing) in (torch.Tensor, torch.nn.Parameter) and thing.layout is torch.strided:
            storage = thing.untyped_storage() if hasattr(thing, "untyped_storage") else thing.storage()
            size = storage.nbytes() if hasattr(storage, "nbytes") else storage.size() * thing.element_size()
            storages[storage.data_ptr()] = size
    return storages


def large_state_while_decoding(generator_class, model, beam_size, max_len=4):
    """For each decoder layer call: the sizes of live tensors that are not weights, from half the encoder's output on.

    Sizes are chosen so that all else (words, scores, the generator's record of attention weights) is smaller.
    """
    seen = []
    sample = batch(WORDS, [SRC_LEN, SRC_LEN - 9, SRC_LEN - 30], seed=1)
    generator = generator_class([model], WORDS, beam_size=beam_size, max_len_b=max_len, min_len=max_len)
    gc.collect()
    before = set(live_storages())

    def look(module, inputs):
        seen.append([size for address, size in live_storages().items() if address not in before and size >= limit])

    limit = ENCODER_OUT_BYTES // 2
    handles = [layer.register_forward_pre_hook(look) for layer in model.decoder.layers]
    generator.generate([model], sample)
    for handle in handles:
        handle.remove()
    return seen


@pytest.mark.parametrize("generator_class", [SequenceGenerator, ELSequenceGenerator])
@pytest.mark.parametrize("arch", ["transformer", "bart_base"])
@pytest.mark.parametrize(("num_layers", "num_heads", "beam_size"), [(1, 1, 1), (3, 2, 4), (2, 8, 7)])
def test_cross_attention_state_is_the_encoder_output_once(arch, num_layers, num_heads, beam_size, generator_class):
    options = {
        "encoder_embed_dim": WIDTH,
        "decoder_embed_dim": 16,
        "share_all_embeddings": False,
        "decoder_layers": num_layers,
        "decoder_attention_heads": num_heads,
    }
    model = build_model(arch, WORDS, seed=1, **options)
    stock = large_state_while_decoding(SequenceGenerator, model, beam_size)
    assert max(sum(sizes) for sizes in stock) >= 2 * num_layers * NUM_SENTENCES * SRC_LEN * 16 * BYTES
    fairseq_el.enable_el_attention(model)
    el = large_state_while_decoding(generator_class, model, beam_size)
    assert len(el) == len(stock) > 0
    assert all(sizes == [ENCODER_OUT_BYTES] for sizes in el)


def test_finished_sentences_leave_the_state():
    """Compaction: sentences finish one by one (each as long as its source) and the encoder's output shrinks."""
    model = build_model("transformer", WORDS, seed=1)
    sample = batch(WORDS, [9, 8, 7, 6, 5, 4], seed=1)
    sizes = []
    handle = model.decoder.layers[0].register_forward_pre_hook(
        lambda module, inputs: sizes.append((inputs[0].size(1), inputs[1].size(1), inputs[2].size(0)))
    )
    task = TinyELTask(WORDS)
    task.inference_step(task.build_generator([model], Namespace(beam=2, match_source_len=True)), [model], sample)
    handle.remove()
    assert sizes[0] == (6, 6, 6)  # the first symbol is read once for all beams
    assert all(rows == 2 * sentences and sentences == masks for rows, sentences, masks in sizes[1:])
    assert sorted({sentences for _, sentences, _ in sizes}) == [1, 2, 3, 4, 5, 6]
