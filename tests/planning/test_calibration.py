"""Measuring on a small scale: what is called, in which order, and what comes of it. Nothing here depends on a clock."""

from __future__ import annotations

import pytest
import torch

from fairseq_el.dtypes import DTYPES
from fairseq_el.planning import BACKENDS, calibration, default_rates
from fairseq_el.planning.calibration import LAYER_SIZES, OPERATIONS, TINY_LAYER, LayerSize, predict

SMALL = (LayerSize(3, 2, 20, 4, 32), LayerSize(2, 1, 40, 4, 32))


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(calibration, "LAYER_SIZES", SMALL)


def test_rates_of_a_clock_that_follows_the_model(monkeypatch):
    """Half the seconds that the default rates predict give rates twice as high."""
    keys = [
        (name, size)
        for size in (TINY_LAYER, *LAYER_SIZES)
        for name in OPERATIONS
        if size != TINY_LAYER or name in BACKENDS
    ]
    operations = iter(keys)
    rates = default_rates("cpu", "fp32")
    monkeypatch.setattr(calibration, "LAYER_SIZES", LAYER_SIZES)
    monkeypatch.setattr(calibration, "_operations", lambda *unused: [None] * len(OPERATIONS))
    monkeypatch.setattr(
        calibration, "_seconds", lambda call, device: predict(*next(operations), DTYPES["fp32"].num_bytes, rates) / 2
    )
    told = []
    found = calibration.calibrate("cpu", ["fp32"], told.append)
    assert [(measurement.operation, measurement.size) for measurement in found.measurements] == keys
    assert len(told) == calibration.num_measurements(["fp32"]) == len(keys)
    measured = found.rates["fp32"]
    for name in ("dense", "shared", "bandwidth", "stream"):
        assert getattr(measured, name) == pytest.approx(2 * getattr(rates, name), rel=0.05)
    assert measured.launch == pytest.approx(rates.launch / 2, rel=0.05)
    assert found.largest_error < 0.1


def test_measures_with_the_real_operations():
    found = calibration.calibrate("cpu", ["fp32", "bf16"], lambda what: None)
    assert list(found.rates) == ["fp32", "bf16"]
    assert len(found.measurements) == calibration.num_measurements(["fp32", "bf16"])
    assert all(measurement.measured > 0 and measurement.predicted > 0 for measurement in found.measurements)
    assert found.largest_error == max(abs(m.predicted / m.measured - 1) for m in found.measurements)


@pytest.mark.parametrize("size", SMALL)
def test_all_operations_work_on_the_same_sizes(size):
    el, shared_kv, project, copy = calibration._operations(size, "cpu", torch.float32, 4)
    head_dim = size.width // size.heads
    assert el()[0].shape == shared_kv().shape == (size.batch, size.beam, size.heads, head_dim)
    assert copy().shape == (size.batch, size.src_len, size.width)
    assert [heads.shape for heads in project()] == [(size.batch, size.heads, size.src_len, head_dim)] * 2


def test_keys_and_values_are_those_of_several_layers(monkeypatch):
    """One layer after the other, so that they are not found in a cache."""
    seen = []
    monkeypatch.setattr(calibration, "kv_attention", lambda query, key, value, **options: seen.append(key.data_ptr()))
    _, shared_kv, *_ = calibration._operations(SMALL[0], "cpu", torch.float32, 4)
    for _ in range(24):
        shared_kv()
    assert len(set(seen)) == 12 and seen[:12] == seen[12:]
