"""What is said about a batch that did not fit, beside the hypotheses: see test_halves."""

from __future__ import annotations

import argparse
import re

import pytest
import torch
from tiny import TinyELTask, batch, build_model, dictionary

import fairseq_el
from fairseq_el.generation import DEFAULT_ENCODER_TOKENS, native_threads
from fairseq_el.generation.failures import out_of_memory as module
from fairseq_el.generation.failures.out_of_memory import Size
from fairseq_el.ops import can_pack
from fairseq_el.planning import DEFAULT_OVERHEAD, Workload, largest_batch, memory, shape_of, torch_attention

WORDS = dictionary()
GIB = 1 << 30


def decode(monkeypatch, free, fits, backend="el"):
    """Decodes 64 sentences where so many fit. ``free``: of the device type, the bytes that can be used."""
    model = build_model("transformer", WORDS, seed=1, dtype=torch.float32)
    task = TinyELTask(WORDS)
    generator = task.build_generator([model], argparse.Namespace(beam=4, max_len_b=30))
    fairseq_el.enable_el_attention(model, backend)
    embed = model.encoder.forward_embedding

    def limited(tokens):
        if tokens.size(0) > fits:
            raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory")
        return embed(tokens)

    monkeypatch.setattr(model.encoder, "forward_embedding", limited)
    monkeypatch.setattr(module, "free_memory", free)
    monkeypatch.setattr(module, "process_memory", lambda device: 0)
    return task.inference_step(generator, [model], batch(WORDS, [9] * 64, seed=1))


def warning(caplog):
    (message,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert message.startswith("Decoding 64 sentences of up to 9 tokens with beam 4 ran out of memory. ")
    return message


@pytest.mark.parametrize(("backend", "planned"), [("el", "el"), ("shared-kv", "shared-kv"), ("auto", "shared-kv")])
def test_names_the_batch_size_that_plan_would_choose(backend, planned, monkeypatch, caplog):
    model = build_model("transformer", WORDS, seed=1, dtype=torch.float32)
    work = Workload(
        batch=10,
        beam=4,
        src_len=9,
        tgt_len=30,
        dtype="fp32",
        encoder_tokens=DEFAULT_ENCODER_TOKENS,
        overhead=DEFAULT_OVERHEAD,
        torch_attention=torch_attention("cpu", "fp32"),
        can_pack=can_pack("cpu", torch.float32),
        backend=planned,
        native_threads=native_threads("cpu", "fp32", 4, len(WORDS)),
    )
    free = memory("kv", shape_of(model), work).total
    assert largest_batch("kv", shape_of(model), work, free) == 10
    assert len(decode(monkeypatch, lambda device: free, fits=11, backend=backend)) == 64
    assert "By the arithmetic of `fairseq-el plan`, 10 of them fit in the " in warning(caplog)
    assert warning(caplog).endswith(": --batch-size 10.")


@pytest.mark.parametrize("free", [64 * GIB, 1000])  # plan would take all of them, or none
def test_names_the_batch_size_that_fitted_where_plan_is_wrong(free, monkeypatch, caplog):
    assert len(decode(monkeypatch, lambda device: free, fits=20)) == 64
    assert warning(caplog).endswith("Hypotheses are the same. Batches of 16 fitted: --batch-size 16.")


def test_names_the_batch_size_that_fitted_where_the_system_does_not_say_what_is_free(monkeypatch, caplog):
    def unknown(device):
        raise fairseq_el.OptionError("--memory is needed here")

    decode(monkeypatch, unknown, fits=20)
    assert warning(caplog).endswith("Batches of 16 fitted: --batch-size 16.")


def test_not_even_one_fits(monkeypatch):
    with pytest.raises(fairseq_el.OutOfMemoryError) as caught:
        decode(monkeypatch, lambda device: GIB, fits=0)
    assert re.fullmatch(
        r"Decoding sentence \d+, 9 tokens, by itself with beam 4 and outputs of up to 30 words ran out of memory "
        r"\(RuntimeError: \[enforce fail\] DefaultCPUAllocator: can't allocate memory\)\. By the arithmetic of "
        r"`fairseq-el plan` it takes 60\d MiB of the 1\.00 GiB that this process can use; something else needs memory "
        r"too\. Use a smaller --beam, --max-len-a or --max-len-b, or leave out sources that are so long\.",
        str(caught.value),
    )


def test_size():
    known = Size(8, 40, 80)
    assert all(size.needs_as_much_as(known) for size in [Size(8, 40, 80), Size(9, 50, 90), Size(8, 35, 70)])
    assert not any(size.needs_as_much_as(known) for size in [Size(7, 99, 99), Size(9, 34, 99), Size(99, 99, 69)])
