from __future__ import annotations

import argparse

import pytest
import torch
from tiny import TinyELTask, batch, build_model, dictionary

import fairseq_el
from fairseq_el.generation import DEFAULT_ENCODER_TOKENS
from fairseq_el.ops import can_pack
from fairseq_el.planning import DEFAULT_OVERHEAD, Workload, keeps_scores, largest_batch, memory, shape_of
from fairseq_el.tasks import out_of_memory as module

WORDS = dictionary()
GIB = 1 << 30


def failing(message, monkeypatch, free, kind=RuntimeError, sentences=64, backend="el"):
    """What a task says when decoding fails, on a machine where so many bytes can be used."""
    model = build_model("transformer", WORDS, seed=1, dtype=torch.float32)
    task = TinyELTask(WORDS)
    generator = task.build_generator([model], argparse.Namespace(beam=4, max_len_b=30))
    fairseq_el.enable_el_attention(model, backend)
    sample = batch(WORDS, [9] * sentences, seed=1)

    def fail(*args, **kwargs):
        raise kind(message)

    monkeypatch.setattr(model.encoder, "forward_embedding", fail)
    monkeypatch.setattr(module, "free_memory", lambda device: free)
    monkeypatch.setattr(module, "own_memory", lambda device: 0)
    with pytest.raises(Exception) as caught:
        task.inference_step(generator, [model], sample)
    return caught.value


@pytest.mark.parametrize(
    "message",
    ["CUDA out of memory. Tried to allocate 2 GiB", "[enforce fail] DefaultCPUAllocator: can't allocate memory"],
)
@pytest.mark.parametrize(("backend", "planned"), [("el", "el"), ("shared-kv", "shared-kv"), ("auto", "shared-kv")])
def test_names_the_batch_size_that_plan_would_choose(backend, planned, message, monkeypatch):
    model = build_model("transformer", WORDS, seed=1, dtype=torch.float32)
    work = Workload(
        batch=10,
        beam=4,
        src_len=9,
        tgt_len=30,
        dtype="fp32",
        encoder_tokens=DEFAULT_ENCODER_TOKENS,
        overhead=DEFAULT_OVERHEAD,
        scores_kept=keeps_scores("cpu", "fp32"),
        can_pack=can_pack("cpu", torch.float32),
        backend=planned,
    )
    free = memory("kv", shape_of(model), work).total
    expected = largest_batch("kv", shape_of(model), work, free)
    assert expected == 10
    error = failing(message, monkeypatch, free, backend=backend)
    assert isinstance(error, fairseq_el.OutOfMemoryError) and isinstance(error.__cause__, RuntimeError)
    assert str(error).startswith("Decoding 64 sentences of up to 9 tokens, beam 4, ran out of memory. ")
    assert str(error).endswith(": --batch-size 10.")


def test_half_as_many_where_plan_sees_no_problem(monkeypatch):
    error = failing("out of memory", monkeypatch, free=64 * GIB)
    assert "something else needs memory too" in str(error) and str(error).endswith("--batch-size 32.")


def test_not_even_one_fits(monkeypatch):
    error = failing("", monkeypatch, free=1000, kind=MemoryError)
    assert "not even one" in str(error)


def test_other_errors_are_left_alone(monkeypatch):
    error = failing("size mismatch", monkeypatch, free=GIB)
    assert type(error) is RuntimeError


def test_half_as_many_where_the_system_does_not_say_what_is_free(monkeypatch):
    def unknown(device):
        raise fairseq_el.OptionError("--memory is needed here")

    monkeypatch.setattr(module, "own_memory", unknown)
    model = build_model("transformer", WORDS, seed=1, dtype=torch.float32)
    task = TinyELTask(WORDS)
    generator = task.build_generator([model], argparse.Namespace(beam=4, max_len_b=30))
    error = module.out_of_memory([model], batch(WORDS, [9] * 64, seed=1), generator)
    assert str(error).endswith("ran out of memory. Decode with a smaller batch: --batch-size 32.")
