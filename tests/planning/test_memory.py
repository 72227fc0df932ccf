"""The plan against counted bytes: small random models are decoded, and every tensor they hold is weighed."""

from __future__ import annotations

import importlib
from dataclasses import asdict, replace

import pytest
import torch
from fairseq.sequence_generator import SequenceGenerator
from searches import in_place
from tiny import batch, build_language_model, build_model, dictionary

import fairseq_el
from fairseq_el._compat import torch_version
from fairseq_el.generation import DEFAULT_ENCODER_TOKENS, ELSequenceGenerator
from fairseq_el.generation.ensemble import StateBytes
from fairseq_el.measure import CAN_TRACK, PeakBytes
from fairseq_el.ops import can_pack, why_no_int8
from fairseq_el.planning import (
    METHODS,
    Breakdown,
    ModelShape,
    TorchAttention,
    Workload,
    default_node_share,
    largest_batch,
    memory,
    shape_of,
)
from fairseq_el.planning.el_memory import _computing_bytes, state_bytes, state_capacity
from fairseq_el.policy import output_rows_at_once

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
ARCH = {"stock": "transformer", "stock-shared": "bart_base", "kv": "bart_base", "el": "bart_base"}

can_track = pytest.mark.skipif(not CAN_TRACK, reason="counting live tensors needs torch 2.1")


@pytest.fixture(autouse=True)
def some_of_the_small_products_are_packed(monkeypatch):
    """Not only those of large models: some of a layer's, some not, by how many rows there are."""
    monkeypatch.setattr("fairseq_el.policy.LEAST_PACKED", 40_000)


class Run:
    """One batch decoded: what the plan is told, and what was counted."""

    def __init__(self, method, dtype, words=996, width=32, ffn=128, layers=3, pre_norm=False, prompt=False, **work):
        work = {"batch": 4, "beam": 3, "src_len": 8, "tgt_len": 4, "encoder_tokens": DEFAULT_ENCODER_TOKENS, **work}
        self.method = method
        self.work = Workload(dtype=dtype, can_pack=can_pack("cpu", DTYPES[dtype]), **work)
        self.words = dictionary(words)
        self.model = self._model(prompt, DTYPES[dtype], width, ffn, layers, pre_norm)
        self.shape = shape_of(self.model)
        self.states: list[tuple[int, int]] = []  # after each step: capacity in nodes and in bytes
        self.sizes: list[StateBytes] = []  # of native code
        self.encoding = self.decoding = 0

    def _model(self, language_model, dtype, width, ffn, layers, pre_norm):
        if language_model:
            widths = dict.fromkeys((f"decoder_{name}_dim" for name in ("embed", "input", "output")), width)
            widths = {**widths, "decoder_ffn_embed_dim": ffn} if self.work.native_threads else {}
            model = build_language_model(self.words, 1, dtype, **widths)
        else:
            options = {
                f"{side}_{name}": value
                for side in ("encoder", "decoder")
                for name, value in (
                    ("embed_dim", width),
                    ("ffn_embed_dim", ffn),
                    ("layers", layers),
                    ("normalize_before", pre_norm),
                )
            }
            positions = {"max_source_positions": 2048, "max_target_positions": 2048}
            model = build_model(ARCH[self.method], self.words, 1, dtype, **options, **positions)
        if self.method in ("el", "kv"):
            fairseq_el.enable_el_attention(model, self.work.backend, self.method)
        return model

    def decode(self, **generate):
        """Decodes with all hypotheses as long as they may be, and counts."""
        work = self.work
        length = work.tgt_len + (work.src_len if self.shape.decoder_only else 0)
        el = self.method in ("el", "kv")
        self.generator = generator = (ELSequenceGenerator if el else SequenceGenerator)(
            [self.model], self.words, beam_size=work.beam, max_len_b=length, min_len=length, max_len=4096
        )
        if el:
            generator.encoder_tokens, generator.record_attention = work.encoder_tokens, False
            generator.int8_weights = work.int8
            if work.native_threads:
                generator.on_batch = self.sizes.append
            else:
                generator.on_step = lambda step, states: self.states.append(
                    (states[0].tree.capacity, states[0].capacity_bytes())
                )
        sample = batch(self.words, [work.src_len, *[work.src_len - 1] * (work.batch - 1)], seed=1)
        if not CAN_TRACK:
            generator.generate([self.model], sample, **generate)
            return self
        self.counted = counted = PeakBytes()

        def note_encoding(*unused):
            if not self.encoding:
                self.encoding = counted.take()

        handle = None
        if not self.shape.decoder_only and not work.native_threads:
            handle = self.model.decoder.embed_positions.register_forward_pre_hook(note_encoding)
        with counted:
            generator.generate([self.model], sample, **generate)
        if handle is not None:
            handle.remove()
        self.decoding = counted.take()
        return self

    def plan(self, monkeypatch=None) -> Breakdown:
        """The plan; for EL with the room that the state really had, which depends on how much beams share."""
        if self.states:
            most = max(capacity for capacity, _ in self.states)
            monkeypatch.setattr("fairseq_el.planning.el_memory.state_capacity", lambda *unused: most)
        return memory(self.method, self.shape, self.work)

    def planned_decoding(self, monkeypatch) -> int:
        """What was there before is not counted: the source."""
        plan = self.plan(monkeypatch)
        return plan.packed + plan.decoding + plan.buffers - 8 * self.work.batch * self.work.src_len


def assert_close(planned, counted, tolerance):
    assert abs(planned / counted - 1) <= tolerance, f"planned {planned:,}, counted {counted:,}: {planned / counted:.3f}"


TOLERANCE = {"stock": 0.15, "stock-shared": 0.15, "kv": 0.1, "el": 0.1}
DOMINATED_BY = {  # what makes most of the peak of a step
    "source": {"words": 4, "src_len": 400, "width": 64, "ffn": 64, "beam": 4},
    "source, one layer": {"words": 4, "src_len": 400, "width": 64, "ffn": 64, "layers": 1, "beam": 2},
    "past": {"words": 4, "src_len": 4, "tgt_len": 60, "width": 64, "ffn": 64, "beam": 5},
    "past, one beam": {"words": 4, "src_len": 4, "tgt_len": 100, "width": 64, "ffn": 64, "beam": 1},
    "vocabulary": {"words": 4996, "beam": 4},
    "vocabulary, in parts": {"words": 4996, "beam": 4, "encoder_tokens": 256, "batch": 8},
    "feed-forward": {"words": 40, "ffn": 4096, "src_len": 4, "batch": 2, "beam": 8},
    "packed weights": {"words": 496, "src_len": 4, "tgt_len": 20, "width": 128, "ffn": 256, "batch": 8, "beam": 4},
    "all": {"words": 496, "src_len": 60, "tgt_len": 40, "width": 64, "beam": 4},
}


@can_track
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("part", DOMINATED_BY)
def test_peak_of_decoding(part, method, dtype, monkeypatch):
    run = Run(method, dtype, **DOMINATED_BY[part]).decode()
    assert_close(run.planned_decoding(monkeypatch), run.decoding, TOLERANCE[method])


@can_track
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("method", ["kv", "el"])
@pytest.mark.parametrize("part", ["source", "source, one layer", "packed weights", "all"])
def test_peak_of_decoding_with_the_source_s_keys_and_values(part, method, dtype, monkeypatch):
    run = Run(method, dtype, **DOMINATED_BY[part], backend="shared-kv").decode()
    assert_close(run.planned_decoding(monkeypatch), run.decoding, TOLERANCE[method])


@can_track
@pytest.mark.parametrize("dtype", DTYPES)
def test_peak_of_projecting_the_source(dtype, monkeypatch):
    """One layer of a source that is projected at once, with nothing else that is large."""
    work = {"words": 4, "layers": 1, "src_len": 500, "tgt_len": 2, "beam": 1, "width": 64, "ffn": 64}
    run = Run("kv", dtype, **work, backend="shared-kv").decode()
    assert run.plan(monkeypatch).step > 0.9 * 2000 * 64 * run.work.element_size
    assert_close(run.planned_decoding(monkeypatch), run.decoding, TOLERANCE["kv"])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("method", ["kv", "el"])
@pytest.mark.parametrize("language_model", [False, True])
def test_packed_weights_are_as_planned(language_model, method, dtype):
    run = Run(method, dtype, words=496, batch=8, beam=4, tgt_len=20, prompt=language_model, keeps_packed=True)
    run.model._is_generation_fast = True  # as after prepare_for_inference_
    run.decode()
    (linears,) = run.generator._kept_linears.values()
    planned = memory(run.method, run.shape, run.work).packed
    assert linears.size_bytes() == pytest.approx(planned, rel=0.1)  # biases are counted in the former only
    assert (planned > 0) == can_pack("cpu", DTYPES[dtype])


@pytest.mark.skipif(bool(why_no_int8("cpu")), reason=why_no_int8("cpu"))
@pytest.mark.parametrize("method", ["kv", "el"])
@pytest.mark.parametrize(("language_model", "backend"), [(False, "el"), (False, "shared-kv"), (True, "el")])
def test_weights_in_8_bits_are_as_planned(language_model, backend, method):
    run = Run(method, "fp32", batch=2, beam=2, tgt_len=3, prompt=language_model, backend=backend, int8=True)
    run.model._is_generation_fast = True
    run.decode()
    (linears,) = run.generator._kept_linears.values()
    assert linears.size_bytes() == memory(run.method, run.shape, run.work).packed > 0


@can_track
@pytest.mark.parametrize("pre_norm", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("ffn", [16, 256])
@pytest.mark.parametrize(("method", "encoder_tokens"), [("stock", 1), ("stock-shared", 1), ("el", 8192), ("el", 512)])
def test_peak_of_encoding(method, encoder_tokens, ffn, dtype, pre_norm):
    run = Run(
        method,
        dtype,
        words=4,
        width=64,
        ffn=ffn,
        pre_norm=pre_norm,
        encoder_tokens=encoder_tokens,
        batch=8,
        src_len=256,
    ).decode()
    assert_close(memory(method, run.shape, run.work).encoding, run.encoding, 0.1)


def test_old_torch_holds_queries_keys_and_values(monkeypatch):
    """The peak of stock's encoder is where attention projects its output, with one tensor more."""
    run = Run("stock-shared", "fp32", words=4, width=64, ffn=16, batch=8, src_len=256)
    planned = {}
    for holds in (False, True):
        module = importlib.import_module("fairseq_el.planning.memory")  # the package has a function of its name
        monkeypatch.setattr(module, "holds_projections", lambda holds=holds: holds)
        planned[holds] = memory("stock-shared", run.shape, run.work).encoding
    assert planned[True] - planned[False] == 8 * 256 * 64 * 4


@can_track
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("method", ["stock", "kv", "el"])
@pytest.mark.parametrize(
    "work",
    [
        {"words": 4, "src_len": 4, "tgt_len": 40, "beam": 4},
        {"words": 4, "src_len": 40, "tgt_len": 4, "beam": 2, "batch": 12},
        {"words": 996, "src_len": 40, "tgt_len": 4, "beam": 2, "batch": 12, "encoder_tokens": 128},
    ],
)
def test_peak_of_language_models(work, method, dtype, monkeypatch):
    run = Run(method, dtype, prompt=True, **work)
    prompt = torch.randint(run.words.nspecial, len(run.words), (run.work.batch, run.work.src_len - 1))
    run.decode(prefix_tokens=prompt)
    plan = run.plan(monkeypatch)
    planned = plan.packed + plan.buffers + max(plan.encoding, plan.decoding)
    assert_close(planned, run.decoding, TOLERANCE[method])


KEPT = TorchAttention(0, casts=torch_version() >= (2, 5))


@pytest.fixture
def no_fused_attention():
    """As on a card with heads of a width that its kernels do not take."""
    attention = pytest.importorskip("torch.nn.attention")
    with attention.sdpa_kernel(attention.SDPBackend.MATH):
        yield


@can_track
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("part", ["source", "past", "past, one beam"])
def test_peak_of_decoding_where_scores_are_kept(part, dtype, monkeypatch, no_fused_attention):
    run = Run("kv", dtype, **DOMINATED_BY[part], backend="shared-kv", torch_attention=KEPT).decode()
    assert_close(run.planned_decoding(monkeypatch), run.decoding, TOLERANCE["kv"])
    if dtype == "bf16" and KEPT.casts:
        fused = memory("kv", run.shape, replace(run.work, torch_attention=TorchAttention()))
        assert run.plan(monkeypatch).step > 1.2 * fused.step


@can_track
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("method", ["stock", "kv"])
def test_peak_of_encoding_where_scores_are_kept(method, dtype, no_fused_attention):
    work = {"words": 4, "width": 64, "ffn": 64, "batch": 8, "src_len": 256, "encoder_tokens": 512}
    run = Run(method, dtype, **work, torch_attention=KEPT).decode()
    assert_close(memory(method, run.shape, run.work).encoding, run.encoding, 0.1)
    fused = memory(method, run.shape, replace(run.work, torch_attention=TorchAttention()))
    assert run.encoding > 1.5 * fused.encoding


@can_track
@pytest.mark.parametrize("dtype", DTYPES)
def test_peak_of_prompts_where_scores_are_kept(dtype, monkeypatch, no_fused_attention):
    run = Run("kv", dtype, words=4, src_len=120, tgt_len=2, beam=1, prompt=True, torch_attention=KEPT)
    prompt = torch.randint(run.words.nspecial, len(run.words), (run.work.batch, run.work.src_len - 1))
    run.decode(prefix_tokens=prompt)
    plan = run.plan(monkeypatch)
    assert_close(plan.packed + plan.buffers + max(plan.encoding, plan.decoding), run.decoding, TOLERANCE["kv"])


@pytest.mark.parametrize("side", ["encoder", "decoder"])
def test_heads_of_a_width_that_is_not_fused_keep_their_scores(side):
    """Each side's heads by themselves: 4 heads of 8 numbers, or 8 of 4. In fp32 nothing helps them."""
    shape = Run("kv", "fp32").shape
    work = Workload(4, 4, 500, 20, "fp32", 8192, device="cuda", backend="shared-kv", torch_attention=TorchAttention(8))
    narrow = replace(shape, **{f"{side}_heads": 8})
    plans = [memory("kv", s, work) for s in (replace(shape, encoder_heads=4, decoder_heads=4), narrow)]
    assert (plans[1].encoding > 2 * plans[0].encoding) == (side == "encoder")
    assert (plans[1].step > 2 * plans[0].step) == (side == "decoder")
    stock = [memory("stock", s, work).encoding for s in (replace(shape, encoder_heads=4), narrow)]
    assert (stock[1] > 2 * stock[0]) == (side == "encoder")


@pytest.mark.parametrize("dtype", ["fp16", "bf16"])
def test_in_16_bits_heads_are_copied_to_a_width_that_is_fused(dtype):
    work = Workload(4, 4, 500, 20, dtype, 8192, device="cuda", torch_attention=TorchAttention(8, casts=True))
    queries, keys = 4 * 4, 4 * 500
    assert work.kv_attention_bytes(4, 32, queries, keys, 500, 6) == 0
    assert work.kv_attention_bytes(8, 32, queries, keys, 500, 6) == 2 * (2 * 8 * 8) * (queries + keys)
    unfused = replace(work, torch_attention=TorchAttention(0, casts=True))
    kept = unfused.unfused_attention_bytes(8, 64, queries, keys, 500, 6)
    assert unfused.kv_attention_bytes(8, 32, queries, keys, 500, 6) == 2 * (2 * 8 * 8) * (queries + keys) + kept


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("method", ["kv", "el"])
@pytest.mark.parametrize("beam", [1, 2, 5])
def test_state_is_as_planned(beam, method, dtype):
    run = Run(method, dtype, words=4, beam=beam, tgt_len=30, batch=2).decode()
    for capacity, size in run.states:
        assert size == state_bytes(method, run.shape, run.work, capacity)
    most = max(capacity for capacity, _ in run.states)
    worst = state_capacity(run.shape, run.work, worst=True)
    assert most <= worst
    if beam == 1:  # shares nothing: what is expected is the worst
        assert state_capacity(run.shape, run.work, worst=False) == worst
        assert most >= 0.85 * worst


@can_track
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("method", ["kv", "el"])
@pytest.mark.parametrize("part", ["source", "past", "past, one beam", "vocabulary", "all"])
def test_peak_of_decoding_in_place(part, method, dtype, monkeypatch):
    """Without the graphs themselves, which are for cards: their pool is planned as large as the step's own memory."""
    monkeypatch.setattr("fairseq_el.decoding.linears.can_pack", lambda *unused: False)  # as on a card
    run = Run(method, dtype, **{**DOMINATED_BY[part], "words": max(DOMINATED_BY[part]["words"], 40)})
    run.work = replace(run.work, can_pack=False, graphs=True)
    sizes = []
    on_batch = ELSequenceGenerator.on_batch
    monkeypatch.setattr(ELSequenceGenerator, "on_step", property(lambda self: None, lambda self, value: None))
    monkeypatch.setattr(ELSequenceGenerator, "on_batch", sizes.append)
    with in_place():
        run.decode()
    monkeypatch.setattr(ELSequenceGenerator, "on_batch", on_batch)
    of_a_node = state_bytes(method, run.shape, run.work, 1)
    (capacity,) = {round(size.past / of_a_node) for size in sizes}
    assert sizes[0].past == pytest.approx(state_bytes(method, run.shape, run.work, capacity), rel=0.01)
    assert capacity <= state_capacity(run.shape, run.work, worst=True)
    monkeypatch.setattr("fairseq_el.planning.el_memory.state_capacity", lambda *unused: capacity)
    plan = memory(method, run.shape, run.work)
    computing = _computing_bytes(method, run.shape, run.work, capacity)
    planned = plan.decoding - computing + plan.buffers - 8 * run.work.batch * run.work.src_len
    assert_close(planned, run.decoding, 0.1)


def test_output_rows_are_those_of_the_generator():
    run, rows = Run("el", "fp32", words=4996, batch=9, beam=3, tgt_len=3, encoder_tokens=700), []
    run.model.decoder.output_projection.register_forward_pre_hook(lambda module, inputs: rows.append(len(inputs[0])))
    run.decode()
    at_once = output_rows_at_once(700, run.shape.decoder_dim, run.shape.vocab_size)
    assert 3 < at_once < 27 and max(rows) == at_once // 3 * 3  # whole sentences


def test_packed_weights_stay_for_larger_batches():
    run = Run("el", "fp32", keeps_packed=True)
    work = replace(run.work, can_pack=True)
    packed = [memory("el", run.shape, replace(work, batch=size)).packed for size in (1, 2, 300, 3000)]
    assert packed[0] == 0 < packed[1] < packed[2] == packed[3]  # 3 beams alone are too few rows
    assert memory("stock", run.shape, work).packed == 0
    assert memory("el", run.shape, replace(work, can_pack=False)).packed == 0


def test_every_weight_is_packed_by_its_own_size(monkeypatch):
    """Width 256, feed-forward network 1,024, 6,000 words, 5 beams; products of 4 million and more are packed."""
    shape = ModelShape(3, 3, 256, 256, 1024, 1024, 8, 8, 6000, 10**7)
    work = Workload(5, 5, 20, 200, "fp32", 2048, can_pack=True, keeps_packed=True)
    square, feed_forward, joined, output = 256 * 256, 256 * 1024, 256 * 3 * 256, 256 * 6000
    monkeypatch.setattr("fairseq_el.policy.LEAST_PACKED", 4_000_000)
    found = {batch: memory("kv", shape, replace(work, batch=batch)).packed // 4 for batch in (1, 3, 4, 5, 12, 13, 900)}
    feed_forwards = output + 3 * 2 * feed_forward
    everything = feed_forwards + 3 * (joined + 3 * square)
    assert found == {
        1: output, 3: output, 4: feed_forwards, 5: feed_forwards + 3 * joined, 12: feed_forwards + 3 * joined,
        13: everything, 900: everything,
    }  # fmt: skip
    assert memory("el", shape, replace(work, batch=5)).packed == 4 * feed_forwards  # keys and values are read as is


def test_keys_and_values_of_the_source_are_two_for_every_layer():
    run = Run("el", "fp32", backend="shared-kv", src_len=50)
    plan = memory("el", run.shape, run.work)
    assert plan.source_keys_values == 2 * 3 * 4 * 50 * 32 * 4
    assert plan.cross_state == memory("el", run.shape, replace(run.work, backend="el")).cross_state
    assert memory("stock", run.shape, run.work).source_keys_values == 0


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("worst", [False, True])
def test_the_largest_batch_is_the_largest(method, worst):
    run = Run(method, "fp32")
    for limit in (10**6, 10**7, 123_456_789):
        batch_size = largest_batch(method, run.shape, run.work, limit, worst)
        totals = [
            memory(method, run.shape, replace(run.work, batch=size), worst).total
            for size in (batch_size, batch_size + 1)
        ]
        assert totals[1] > limit
        assert batch_size == 0 or totals[0] <= limit


def test_nothing_fits_into_less_than_the_weights():
    run = Run("el", "fp32")
    assert largest_batch("el", run.shape, run.work, 4 * run.shape.parameters) == 0


def test_the_total_is_of_the_larger_phase():
    plan = memory("el", Run("el", "fp32").shape, Workload(3, 4, 1000, 5, "fp16", encoder_tokens=8192, overhead=7))
    parts = asdict(plan)
    assert plan.total == sum(parts[name] for name in ("weights", "packed", "overhead", "buffers")) + max(
        parts["encoding"], plan.decoding
    )
    assert plan.as_dict() == {**parts, "total": plan.total}


def test_worst_is_never_less():
    run = Run("el", "fp32", tgt_len=50, beam=5)
    for method in METHODS:
        usual = memory(method, run.shape, run.work)
        assert memory(method, run.shape, run.work, worst=True).total > usual.total


def test_node_share_by_beam():
    assert default_node_share(1) == 1.0
    assert default_node_share(1) > default_node_share(2) > default_node_share(3) > default_node_share(4)
    assert default_node_share(4) == pytest.approx(0.75) == default_node_share(10)


def test_shapes():
    options = {"encoder_embed_dim": 24, "encoder_ffn_embed_dim": 40, "encoder_layers": 1, "encoder_attention_heads": 3}
    model = build_model("bart_base", dictionary(30), 1, **options, share_all_embeddings=False)
    shape = shape_of(model)
    assert (shape.encoder_layers, shape.encoder_dim, shape.encoder_ffn_dim, shape.encoder_heads) == (1, 24, 40, 3)
    assert (shape.decoder_layers, shape.decoder_dim, shape.decoder_ffn_dim, shape.decoder_heads) == (2, 16, 24, 4)
    assert shape.parameters == sum(parameter.numel() for parameter in model.parameters())
    assert (shape.vocab_size, shape.decoder_only, shape.pre_norm, shape.gelu) == (34, False, False, True)
    language_model = shape_of(build_language_model(dictionary(), 1))
    assert (language_model.decoder_only, language_model.encoder_layers, language_model.gelu) == (True, 0, False)


def test_other_models_have_no_shape():
    with pytest.raises(ValueError, match="Linear is not built like fairseq's Transformer"):
        shape_of(torch.nn.Linear(2, 2))


def test_unknown_method():
    with pytest.raises(ValueError, match="method must be one of"):
        memory("other", Run("el", "fp32").shape, Workload(1, 1, 1, 1, "fp32", 1))
