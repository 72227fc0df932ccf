"""``on_batch``: what EL models kept while a batch was decoded, step by step in Python and by native code."""

from __future__ import annotations

import pytest
import torch
from tiny import batch, build_language_model, build_model, dictionary

import fairseq_el
from fairseq_el.generation import ELSequenceGenerator
from fairseq_el.generation.native_search import NativeSearch
from fairseq_el.native import extension

WORDS = dictionary()
LENGTHS = [9, 9, 4, 7]
BEAM, MAX_LEN = 3, 6

native = pytest.mark.skipif(extension() is None, reason="the extension is not compiled")


@pytest.fixture(params=[pytest.param("1", marks=native), "0"], ids=["native", "python"])
def way(request, monkeypatch):
    monkeypatch.setenv("FAIRSEQ_EL_NATIVE", request.param)
    return request.param


def generator_of(models, **attributes):
    options = {"beam_size": BEAM, "max_len_b": MAX_LEN, "min_len": MAX_LEN}
    generator = ELSequenceGenerator(models, WORDS, **options)
    for name, value in {"record_attention": False, **attributes}.items():
        setattr(generator, name, value)
    return generator


def sizes_of(*models):
    """What ``on_batch`` is told about one batch."""
    sizes = []
    generator_of(models, on_batch=sizes.append).generate(models, batch(WORDS, LENGTHS, seed=1))
    (size,) = sizes
    return size


def el_model(backend="el", self_attention="kv", dtype=torch.float64):
    model = build_model("transformer", WORDS, seed=1, dtype=dtype)
    fairseq_el.enable_el_attention(model, backend, self_attention)
    return model


def source_bytes(model, num_positions):
    return len(LENGTHS) * 9 * (8 * model.encoder.embed_tokens.embedding_dim + 1) + num_positions


def test_the_source_is_the_encoder_s_output_and_what_is_kept_beside_it(way):
    model = el_model()
    size, layers = 8 * model.decoder.embed_tokens.embedding_dim, len(model.decoder.layers)
    assert sizes_of(model).source == source_bytes(model, 0)
    positions = sum(LENGTHS) if way == "1" else len(LENGTHS) * 9  # native code keeps no padding
    assert sizes_of(el_model("shared-kv")).source == source_bytes(model, 2 * layers * positions * size)


@native
@pytest.mark.parametrize("backend", ["el", "shared-kv"])
def test_native_code_that_encodes_keeps_its_output_or_keys_and_values(backend):
    model = el_model(backend, dtype=torch.float32)
    kept = 1 if backend == "el" else 2 * len(model.decoder.layers)
    assert sizes_of(model).source == kept * sum(LENGTHS) * 4 * model.decoder.embed_tokens.embedding_dim


@pytest.mark.parametrize("self_attention", ["kv", "el"])
def test_the_past_has_room_for_all_words(self_attention, way):
    model = el_model(self_attention=self_attention)
    numbers = 2 if self_attention == "kv" else 1
    row = 8 * numbers * model.decoder.embed_tokens.embedding_dim * len(model.decoder.layers)
    nodes, room = [], len(LENGTHS) * BEAM * (MAX_LEN + 1)

    def on_step(step, states):
        nodes.append(int(states[0].tree.living_nodes().sum()))

    generator_of([model], on_step=on_step).generate([model], batch(WORDS, LENGTHS, seed=1))
    assert max(nodes) * row <= sizes_of(model).past <= room * (row + 100)


@native
def test_native_code_decodes_while_sizes_are_taken(monkeypatch):
    model, decoded = el_model(), []
    run = NativeSearch.run
    monkeypatch.setattr(NativeSearch, "run", lambda search: decoded.append(search) or run(search))
    sizes_of(model)
    assert len(decoded) == 1


def test_in_python_the_most_of_all_steps_and_models_counts(monkeypatch):
    monkeypatch.setenv("FAIRSEQ_EL_NATIVE", "0")
    models, steps, sizes = [el_model(), el_model("shared-kv")], [], []

    def on_step(step, states):
        steps.append([sum(s.capacity_bytes() for s in states), sum(s.source_bytes() for s in states)])

    generator = generator_of(models, on_step=on_step, on_batch=sizes.append)
    generator.generate(models, batch(WORDS, LENGTHS, seed=1))
    assert [list(size) for size in sizes] == [[max(of_steps) for of_steps in zip(*steps)]]
    assert sizes[0].past > sizes_of(models[0]).past


def test_a_language_model_has_no_source(way):
    model = build_language_model(WORDS, seed=1)
    fairseq_el.enable_el_attention(model)
    size = sizes_of(model)
    assert size.source == 0 < size.past
