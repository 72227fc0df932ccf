"""The cost model against sums by hand, what it chooses, and the fit of its numbers."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fairseq_el.dtypes import DTYPES
from fairseq_el.planning import (
    BACKENDS,
    CrossAttentionShape,
    ModelShape,
    Operation,
    Rates,
    choose_backend,
    cross_attention_operations,
    cross_attention_seconds,
    decoder_step_operations,
    default_rates,
    expected_steps,
    operations_seconds,
)
from fairseq_el.planning.calibration import LAYER_SIZES, OPERATIONS, TINY_LAYER, fit, predict
from fairseq_el.planning.operations import STOCK, flops, traffic
from fairseq_el.units import format_seconds

BART_LARGE = CrossAttentionShape(layers=12, heads=16, width=1024, memory_width=1024)
BATCH = (16, 4, 1024)
MIB, GIB = 1 << 20, 1 << 30

# Two machines, one layer and step of BATCH: milliseconds of el, shared-kv, and of projecting keys and values.
MEASURED = {
    ("Sapphire Rapids", "bf16"): (12, 8, 130),
    ("Sapphire Rapids", "fp32"): (32, 11, 320),
    ("Zen 5", "bf16"): (8.4, 3.4, 88),
    ("Zen 5", "fp32"): (29, 6.4, 355),
}


def work(backend, model=BART_LARGE, batch=BATCH, element_size=2):
    return cross_attention_operations(backend, model, *batch, element_size)


def rates_of(machine, dtype):
    """The rates with which the model gives what was measured."""
    milliseconds = dict(zip(OPERATIONS, MEASURED[machine, dtype]))
    measured = {(operation, LAYER_SIZES[0]): value / 1e3 for operation, value in milliseconds.items()}
    measured["copy", LAYER_SIZES[0]] = traffic(LAYER_SIZES[0].operations("copy", DTYPES[dtype].num_bytes)) / 20e9
    measured["el", TINY_LAYER], measured["shared-kv", TINY_LAYER] = 65e-6, 13e-6
    return fit(measured, DTYPES[dtype].num_bytes, default_rates("cpu", dtype))


def choose(steps, budget=None, batch=BATCH, dtype="fp32", rates=None):
    return choose_backend(BART_LARGE, *batch, steps, "cpu", dtype, budget, rates or default_rates("cpu", dtype))


def test_flops():
    B, b, n, d, h = 3, 4, 50, 32, 8
    model = CrossAttentionShape(layers=5, heads=h, width=d, memory_width=d)
    of = {backend: work(backend, model, (B, b, n)) for backend in (*BACKENDS, *STOCK)}
    assert flops(of["el"].step) == 4 * B * b * n * d * h + 4 * B * b * d * d
    assert [flops(of[name].step) for name in ("shared-kv", *STOCK)] == [4 * B * b * n * d] * 3
    assert [flops(of[name].once) for name in ("el", "shared-kv", "stock-shared", "stock")] == [
        0,
        4 * B * n * d * d,
        4 * B * n * d * d,
        4 * B * b * n * d * d,
    ]


@pytest.mark.parametrize("s", [2, 4, 8])
def test_bytes(s):
    B, b, n, d, h = 3, 4, 50, 32, 8
    model = CrossAttentionShape(layers=5, heads=h, width=d, memory_width=d)
    of = {backend: work(backend, model, (B, b, n), s) for backend in (*BACKENDS, *STOCK)}
    query, weights, memory, scores = B * b * d * s, d * d * s, B * n * d * s, B * b * h * n * s
    assert traffic(of["el"].step) == 2 * memory + 2 * weights + 2 * query + 4 * h * query + 4 * scores
    assert traffic(of["shared-kv"].step) == 2 * memory + 2 * query
    in_float32 = 0 if s == 4 else 8 * scores // s
    assert traffic(of["stock-shared"].step) == 2 * memory + 2 * query + 4 * scores + in_float32
    assert traffic(of["stock"].step) == 2 * b * memory + 2 * query + 4 * scores + in_float32
    assert traffic(of["shared-kv"].once) == 2 * (memory + weights + memory + 2 * memory)
    assert of["el"].state_bytes == memory
    assert of["shared-kv"].state_bytes == of["stock-shared"].state_bytes == memory * (1 + 2 * 5)
    assert of["stock"].state_bytes == b * memory * (1 + 2 * 5)


def test_an_encoder_of_another_width():
    B, b, n, d, m, h = 3, 4, 50, 32, 48, 8
    el, shared = (work(name, CrossAttentionShape(5, h, d, m), (B, b, n)) for name in BACKENDS)
    assert flops(el.step) == 4 * B * b * n * m * h + 4 * B * b * d * m
    assert flops(shared.step) == 4 * B * b * n * d and flops(shared.once) == 4 * B * n * d * m
    assert (el.state_bytes, shared.state_bytes) == (2 * B * n * m, 2 * B * n * (m + 2 * 5 * d))


def test_unknown_backend():
    with pytest.raises(ValueError, match=r"backend must be one of \['el', 'shared-kv', .*\]; got 'other'"):
        work("other")


def test_an_operation_is_bound_by_arithmetic_or_by_memory():
    rates = Rates(dense=100.0, shared=10.0, bandwidth=2.0, stream=5.0, launch=0.25)
    assert operations_seconds([Operation("a", 40, 5)], rates) == 4.25
    assert operations_seconds([Operation("a", 40, 5, rate="dense")], rates) == 1.25
    assert operations_seconds([Operation("a", 40, 5), Operation("b", 0, 50)], rates) == 14.5
    assert operations_seconds([Operation("a", 0, 50, bandwidth="bandwidth")], rates) == 25.25


def test_layers_and_steps_multiply():
    rates = default_rates("cpu", "bf16")
    once, step = (operations_seconds(part, rates) for part in (work("shared-kv").once, work("shared-kv").step))
    seconds = cross_attention_seconds("shared-kv", BART_LARGE, *BATCH, 64, "bf16", rates)
    assert seconds == pytest.approx(12 * (once + 64 * step))


def test_a_whole_step():
    shape = ModelShape(0, 2, 8, 8, 0, 32, 0, 2, 100, 0)
    B, b, n, t, d = 3, 4, 10, 6, 8
    linear = 2 * B * b * (2 * (6 * d * d + 2 * d * 32) + d * 100)
    for backend in (*BACKENDS, *STOCK):
        cross = flops(work(backend, CrossAttentionShape.of(shape), (B, b, n)).step)
        nodes = b * t if backend in STOCK else 18  # three quarters of the words are still in use
        attention = 4 * B * (t * b if backend in STOCK else b * nodes) * d
        assert flops(decoder_step_operations(backend, shape, B, b, n, t, 2)) == linear + 2 * (cross + attention)
    copies = traffic(decoder_step_operations("stock", shape, B, b, n, t, 2)) - traffic(
        decoder_step_operations("stock-shared", shape, B, b, n, t, 2)
    )
    cross = [traffic(work(name, CrossAttentionShape.of(shape), (B, b, n)).step) for name in STOCK]
    assert copies - 2 * (cross[0] - cross[1]) == 4 * B * b * n * d * 2  # the encoder's output and the embeddings


@pytest.mark.parametrize(("machine", "dtype"), MEASURED)
def test_measured_figures_are_predicted(machine, dtype):
    rates = rates_of(machine, dtype)
    for operation, milliseconds in zip(OPERATIONS, MEASURED[machine, dtype]):
        assert predict(operation, LAYER_SIZES[0], DTYPES[dtype].num_bytes, rates) * 1e3 == pytest.approx(
            milliseconds, rel=0.02
        )


@pytest.mark.parametrize(("machine", "dtype"), MEASURED)
def test_choices_at_the_measured_size(machine, dtype):
    el, shared, projection = MEASURED[machine, dtype]
    rates = rates_of(machine, dtype)
    worth = projection / (0.9 * el - shared)  # steps from which keys and values are a tenth faster
    assert choose(64, dtype=dtype, rates=rates).backend == "shared-kv"
    assert choose(round(1.2 * worth), dtype=dtype, rates=rates).backend == "shared-kv"
    assert choose(round(0.8 * worth), dtype=dtype, rates=rates).backend == "el"
    assert choose(2, dtype=dtype, rates=rates).backend == "el"
    assert choose(64, budget=500 * MIB, dtype=dtype, rates=rates).backend == "el"


def test_defaults_lie_between_the_two_machines():
    for dtype in ("fp32", "bf16"):
        default = dataclasses.asdict(default_rates("cpu", dtype))
        machines = [dataclasses.asdict(rates_of(machine, dtype)) for machine, of in MEASURED if of == dtype]
        for name in ("dense", "shared", "bandwidth"):
            assert default[name] == pytest.approx(sum(machine[name] for machine in machines) / 2, rel=0.03)


def test_reasons():
    assert choose(64, 10 * GIB).reason == (
        "shared-kv: 10 s instead of 23 s for 16 sentences of 1,024 tokens, 64 steps; "
        "with its keys and values it keeps 1.56 GiB of at most 10.0 GiB"
    )
    assert choose(64).reason.endswith("it keeps 1.56 GiB")
    assert choose(64, GIB).reason == (
        "el: 23 s for 16 sentences of 1,024 tokens, 64 steps; "
        "shared-kv would take 10 s, but keep 1.56 GiB of at most 1.00 GiB"
    )
    assert choose(1, batch=(1, 4, 1024)).reason == (
        "el: 28 ms and 4.00 MiB for 1 sentence of 1,024 tokens, 1 step; shared-kv would take 260 ms and keep 100 MiB"
    )


sizes = st.integers(1, 2000)


@given(
    st.tuples(st.integers(1, 48), st.integers(1, 32), sizes, sizes),
    st.tuples(sizes, st.integers(1, 20), sizes),
    st.integers(0, 500),
    st.sampled_from(list(DTYPES)),
    st.sampled_from(["cpu", "cuda"]),
    st.integers(0, 1 << 36),
)
def test_the_budget_is_never_exceeded_and_the_choice_is_the_faster(model, batch, steps, dtype, device, budget):
    choice = choose_backend(
        CrossAttentionShape(*model), *batch, steps, device, dtype, budget, default_rates(device, dtype)
    )
    assert choice.backend in BACKENDS and choice.reason.startswith(f"{choice.backend}: ")
    seconds, state = choice.seconds, choice.state_bytes
    assert set(seconds) == set(state) == set(BACKENDS)
    assert state["el"] < state["shared-kv"]
    if choice.backend == "shared-kv":
        assert state["shared-kv"] <= budget and seconds["shared-kv"] < seconds["el"]
    else:
        assert state["shared-kv"] > budget or seconds["el"] * 0.9 < seconds["shared-kv"]


def test_rates_are_loaded_where_none_are_given(monkeypatch, tmp_path):
    monkeypatch.setenv("FAIRSEQ_EL_RATES", str(tmp_path / "none.json"))
    choice = choose_backend(BART_LARGE, *BATCH, 64, "cpu", "fp32")
    assert choice == choose(64)


def test_expected_steps():
    assert expected_steps(30, 1, 200) == 30
    assert expected_steps(1024, 1, 140) == 140
    assert expected_steps(30, 55, 140) == 55


def test_seconds_as_text():
    values = (12.34, 1.234, 0.9999, 0.0456, 0.00123, 5.6e-6, 0.0)
    assert [format_seconds(value) for value in values] == [
        "12 s",
        "1.2 s",
        "1.0 s",
        "46 ms",
        "1.2 ms",
        "5.6 us",
        "0.0 us",
    ]


def test_fitting_finds_the_rates_in_spite_of_outliers():
    true = Rates(dense=3e12, shared=9e11, bandwidth=80e9, stream=120e9, launch=4e-6)
    measured = {
        (name, size): predict(name, size, 2, true) for name in OPERATIONS for size in (TINY_LAYER, *LAYER_SIZES)
    }
    measured["el", LAYER_SIZES[1]] *= 5
    measured["shared-kv", LAYER_SIZES[2]] *= 3
    measured["projection", LAYER_SIZES[3]] *= 2
    measured["copy", LAYER_SIZES[4]] *= 7
    found = dataclasses.asdict(fit(measured, 2, default_rates("cpu", "bf16")))
    for name, value in dataclasses.asdict(true).items():
        assert found[name] == pytest.approx(value, rel=0.06), name
