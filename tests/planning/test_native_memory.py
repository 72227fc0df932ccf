"""The plan of native code against counted bytes: the tensors that it makes, and what it says about its state."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from test_memory import DOMINATED_BY, DTYPES, Run, can_track

from fairseq_el.generation.native_search import NativeSearch
from fairseq_el.measure import CAN_TRACK
from fairseq_el.native import extension
from fairseq_el.ops import why_no_int8
from fairseq_el.planning import largest_batch, memory
from fairseq_el.planning.native_memory import encodes_natively
from fairseq_el.planning.workload import Workload

pytestmark = pytest.mark.skipif(extension() is None, reason="the extension is not compiled")


@pytest.fixture(autouse=True)
def native(monkeypatch):
    monkeypatch.setenv("FAIRSEQ_EL_NATIVE", "1")
    monkeypatch.setattr("fairseq_el.policy.LEAST_PACKED", 40_000)  # some of the small products are packed
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # only what the calling thread makes is counted
    yield
    torch.set_num_threads(threads)


def decoded(method, dtype, **work):
    work["words"] = max(work.get("words", 996), 12)  # native code leaves few words to fairseq
    run = Run(method, dtype, native_threads=1, **work)
    decode = NativeSearch._decode

    def counted_decode(search):
        if CAN_TRACK:
            run.encoding = run.counted.take()
        return decode(search)

    prefix = {}
    if run.shape.decoder_only:
        num_words = len(run.words)
        prefix["prefix_tokens"] = torch.randint(4, num_words, (run.work.batch, run.work.src_len - 1))
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(NativeSearch, "_decode", counted_decode)
        run.decode(**prefix)
    assert run.encoding > 0 or encodes_natively(run.shape, run.work) or not CAN_TRACK  # by native code
    return run


def planned(run, monkeypatch) -> int:
    """The plan, with the words that really were kept: beams may share more than is expected, or less."""
    size = run.sizes[0].past
    with monkeypatch.context() as patched:
        patched.setattr("fairseq_el.planning.native_memory._state_bytes", lambda *unused: size)
        plan = memory(run.method, run.shape, run.work)
    reads = run.shape.decoder_only or encodes_natively(run.shape, run.work)  # the source, or prompts, in native code
    peak = max(plan.decoding, plan.encoding) if reads else plan.decoding
    if run.work.dtype == "fp32" and peak == plan.decoding:  # no scores are equal here, and nothing settles their order
        peak -= 4 * run.work.beam * run.shape.vocab_size
    return plan.packed + peak + plan.buffers - 8 * run.work.batch * run.work.src_len


@can_track
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("backend", ["el", "shared-kv"])
@pytest.mark.parametrize("method", ["kv", "el"])
@pytest.mark.parametrize("part", DOMINATED_BY)
def test_peak_of_decoding(part, method, backend, dtype, monkeypatch):
    run = decoded(method, dtype, **DOMINATED_BY[part], backend=backend)
    ratio = planned(run, monkeypatch) / run.decoding
    assert 1 <= ratio <= (1.35 if part == "vocabulary, in parts" else 1.2)  # parts are of two sizes


@can_track
@pytest.mark.parametrize("pre_norm", [False, True])
@pytest.mark.parametrize("method", ["kv", "el"])
@pytest.mark.parametrize("part", ["source", "vocabulary", "feed-forward", "all"])
def test_peak_of_decoding_in_float64(part, method, pre_norm, monkeypatch):
    monkeypatch.setitem(DTYPES, "fp64", torch.float64)
    run = decoded(method, "fp64", **DOMINATED_BY[part], pre_norm=pre_norm)
    ratio = planned(run, monkeypatch) / run.decoding
    assert 1 <= ratio <= 1.2


@can_track
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("method", ["kv", "el"])
@pytest.mark.parametrize(
    "work",
    [
        {"words": 12, "src_len": 4, "tgt_len": 40, "beam": 4},
        {"words": 12, "src_len": 40, "tgt_len": 4, "beam": 2, "batch": 12},
        {"words": 996, "src_len": 40, "tgt_len": 4, "beam": 2, "batch": 12, "encoder_tokens": 128},
    ],
)
def test_peak_of_language_models(work, method, dtype, monkeypatch):
    run = decoded(method, dtype, prompt=True, width=128, **work)
    ratio = planned(run, monkeypatch) / run.decoding
    assert 1 <= ratio <= 1.15


@can_track
@pytest.mark.skipif(bool(why_no_int8("cpu")), reason=why_no_int8("cpu"))
@pytest.mark.parametrize("backend", ["el", "shared-kv"])
@pytest.mark.parametrize("method", ["kv", "el"])
@pytest.mark.parametrize("part", ["source", "vocabulary", "feed-forward", "packed weights", "all"])
def test_peak_of_decoding_with_weights_in_8_bits(part, method, backend, monkeypatch):
    run = decoded(method, "fp32", **DOMINATED_BY[part], backend=backend, int8=True)
    ratio = planned(run, monkeypatch) / run.decoding
    assert 1 <= ratio <= 1.3


@can_track
@pytest.mark.parametrize("backend", ["el", "shared-kv"])
@pytest.mark.parametrize("encoder_tokens", [512, 8192])
@pytest.mark.parametrize("ffn", [64, 512])
def test_peak_where_native_code_encodes(ffn, encoder_tokens, backend, monkeypatch):
    work = {"words": 4, "src_len": 200, "batch": 8, "width": 64, "ffn": ffn, "beam": 1, "tgt_len": 2}
    run = decoded("kv", "fp32", **work, encoder_tokens=encoder_tokens, backend=backend)
    assert encodes_natively(run.shape, run.work)
    ratio = planned(run, monkeypatch) / run.decoding
    assert 1 <= ratio <= 1.2


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("prompt", [False, True])
@pytest.mark.parametrize("method", ["kv", "el"])
@pytest.mark.parametrize("beam", [1, 2, 5])
def test_the_worst_case_is_never_less_than_the_state(beam, method, prompt, dtype):
    run = decoded(method, dtype, words=12, width=128, beam=beam, tgt_len=30, batch=2, prompt=prompt)
    worst = memory(method, run.shape, run.work, worst=True).decoder_state
    assert run.sizes[0].past <= worst
    if beam == 1:  # shares nothing
        assert worst <= 1.1 * run.sizes[0].past
        assert memory(method, run.shape, run.work).decoder_state == worst


@pytest.mark.parametrize("backend", ["el", "shared-kv"])
def test_the_source_is_as_planned(backend):
    run = decoded("kv", "fp32", src_len=50, backend=backend)
    plan = memory("kv", run.shape, run.work)
    kept, padding = plan.cross_state + plan.source_keys_values, 2 * 3 * 32 * 4 * 3  # 3 sentences have a word less
    assert kept - padding <= run.sizes[0].source <= kept


@pytest.mark.parametrize("method", ["kv", "el"])
@pytest.mark.parametrize("threads", [1, 2])
def test_the_largest_batch_is_the_largest(threads, method):
    shape = Run(method, "fp32").shape
    work = Workload(1, 5, 30, 30, "fp32", 2048, native_threads=threads)
    for limit in (10**6, 10**7, 123_456_789):  # nothing fits into the first
        size = largest_batch(method, shape, work, limit)
        fits = [memory(method, shape, replace(work, batch=of)).total <= limit for of in (size, size + 1)]
        assert fits == [True, False] or (size == 0 and not fits[1])


def test_groups_have_room_by_themselves():
    run = Run("kv", "fp32")
    work = Workload(64, 5, 30, 30, "fp32", 2048, native_threads=1)
    one, two = (memory("kv", run.shape, replace(work, native_threads=threads)) for threads in (1, 2))
    assert one.decoder_state <= two.decoder_state <= 1.1 * one.decoder_state
    assert one.cross_state == two.cross_state
    few = replace(work, batch=2)  # are decoded together
    assert memory("kv", run.shape, few) == memory("kv", run.shape, replace(few, native_threads=2))
