"""The calibration file: what is read of it, when it is no use, and that it is always whole."""

from __future__ import annotations

import json
import logging
import os
import re
from pathlib import Path

import pytest
import torch

from fairseq_el.dtypes import DTYPES
from fairseq_el.errors import OptionError
from fairseq_el.planning import (
    CrossAttentionShape,
    Rates,
    choose_backend,
    default_rates,
    load_rates,
    rates_path,
    save_rates,
)
from fairseq_el.planning.rates import DATA_SHEETS, Processor, this_processor

MEASURED = {
    "fp32": Rates(dense=2e11, shared=1e11, bandwidth=1e10, stream=3e10, launch=1e-5),
    "bf16": Rates(dense=8e11, shared=5e11, bandwidth=2e10, stream=3e10, launch=2e-5),
}


@pytest.fixture
def path(tmp_path, monkeypatch):
    target = tmp_path / "cache" / "rates.json"
    monkeypatch.setenv("FAIRSEQ_EL_RATES", str(target))
    return target


def assert_falls_back(caplog, why=None):
    """With one line that says why, or without any."""
    caplog.clear()
    with caplog.at_level(logging.INFO):
        assert load_rates("cpu", "fp32") == default_rates("cpu", "fp32")
    messages = [record.getMessage() for record in caplog.records]
    if why is None:
        assert messages == []
        return
    (message,) = messages
    assert re.search(why, message) and "\n" not in message
    assert message.endswith("To measure again: fairseq-el calibrate")


def edit(path, **changes):
    content = json.loads(path.read_text())
    entry = content["devices"]["cpu"]
    content.update({key: value for key, value in changes.items() if key in content})
    entry["processor"].update({key: value for key, value in changes.items() if key in entry["processor"]})
    entry["rates"]["fp32"].update({key: value for key, value in changes.items() if key in entry["rates"]["fp32"]})
    path.write_text(json.dumps(content))


def test_what_was_saved_is_loaded(path):
    assert save_rates("cpu", MEASURED) == path == rates_path()
    for dtype, rates in MEASURED.items():
        assert load_rates("cpu", dtype) == rates
    assert load_rates("cpu", "fp64") == default_rates("cpu", "fp64")  # was not measured
    assert load_rates("cuda", "fp16") == default_rates("cuda", "fp16")


def test_where_the_file_is(monkeypatch, tmp_path):
    monkeypatch.delenv("FAIRSEQ_EL_RATES", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "x"))
    assert rates_path() == tmp_path / "x" / "fairseq_el" / "rates.json"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert rates_path() == tmp_path / ".cache" / "fairseq_el" / "rates.json"


@pytest.fixture
def fake_card(monkeypatch):
    def use(capability, hip=None):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
        monkeypatch.setattr(torch.version, "hip", hip)

    return use


@pytest.mark.parametrize(
    ("capability", "hip", "name"),
    [
        ((7, 0), None, "V100"),
        ((8, 0), None, "A100"),
        ((9, 0), None, "H100"),
        ((7, 5), None, "V100"),
        ((12, 0), None, "V100"),
        ((9, 0), "6.2", "V100"),  # AMD's cards have numbers of their own
    ],
)
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_card_has_the_rates_of_its_data_sheet(capability, hip, name, dtype, fake_card):
    fake_card(capability, hip)
    (sheet,) = (sheet for sheet in DATA_SHEETS.values() if sheet.name.startswith(name))
    rates = default_rates("cuda", dtype)
    assert rates.dense == rates.shared == sheet.flops["fp16" if dtype == "bf16" else dtype] / 2
    assert rates.bandwidth == rates.stream == 0.75 * sheet.bandwidth


@pytest.mark.parametrize(("capability", "backend"), [((7, 0), "el"), ((8, 0), "shared-kv"), ((9, 0), "shared-kv")])
def test_the_choice_follows_the_card(capability, backend, fake_card, path):
    """128 articles of 1,024 tokens, 64 words: shared-kv was 1.2 times as fast as el on an H100."""
    fake_card(capability)
    bart_large = CrossAttentionShape(layers=12, heads=16, width=1024, memory_width=1024)
    choice = choose_backend(bart_large, 128, 4, 1024, 64, "cuda", "fp16")
    assert choice.backend == backend


def test_defaults_are_sane():
    for device in ("cpu", "cuda", "mps"):
        for dtype in DTYPES:
            rates = default_rates(device, dtype)
            assert (
                0 < rates.shared <= rates.dense
                and 0 < rates.bandwidth <= rates.stream < rates.shared
                and 0 < rates.launch < 1e-3
            )
    with pytest.raises(KeyError):
        default_rates("cpu", "int8")


def test_no_file_is_nothing_to_speak_of(path, caplog):
    assert_falls_back(caplog)


@pytest.mark.parametrize(
    "content",
    [b"", b"\xff\xfe\x00", b"{", b"[]", b"3", b"null", b"{}", b'{"version": 1}', b'{"version": 1, "devices": []}']
    + [b'{"version": 1, "devices": {"cpu": %s}}' % entry for entry in (b"[]", b"3", b'{"processor": {}}', b'"x"')]
    + [b"[" * 100_000],
)
def test_a_damaged_file(content, tmp_path, caplog, monkeypatch):
    monkeypatch.delenv("FAIRSEQ_EL_RATES", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    path = rates_path()
    path.parent.mkdir()
    path.write_bytes(content)
    assert_falls_back(caplog, str(path))
    save_rates("cpu", MEASURED)  # takes its place
    assert load_rates("cpu", "fp32") == MEASURED["fp32"]


@pytest.mark.parametrize("content", ["notes", "{}", '{"version": 1}', "[1]", "[" * 100_000])
def test_a_users_file_stays(content, path):
    """FAIRSEQ_EL_RATES may name any file by mistake."""
    path.parent.mkdir()
    path.write_text(content)
    with pytest.raises(OptionError, match=r"FAIRSEQ_EL_RATES must name a new file, or one that .* has written;"):
        save_rates("cpu", MEASURED)
    assert path.read_text() == content and list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_what_is_not_a_file_stays(make, path):
    path.parent.mkdir()
    make(path)
    with pytest.raises(OptionError, match=r"rates are written to a file; .*\.json is a (FIFO|directory)\. Name"):
        save_rates("cpu", MEASURED)
    assert not path.is_file() and list(path.parent.iterdir()) == [path]


def test_a_directory_in_its_place(path, caplog):
    path.mkdir(parents=True)
    assert_falls_back(caplog, "is a directory")


def test_a_fifo_in_its_place(path, caplog):
    path.parent.mkdir(parents=True, exist_ok=True)
    os.mkfifo(path)
    assert_falls_back(caplog, "is a FIFO")


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"name": "Another Processor"}, "measured on Another Processor with .*; this is"),
        ({"threads": 1000}, "with 1000 threads and torch"),
        ({"torch": "0.4.1"}, r"and torch 0\.4\.1; this is"),
        ({"version": 2}, "it is of version 2, and 1 is read"),
        ({"dense": 10**400}, "OverflowError"),
        ({"dense": 0}, "dense must be a positive number; got 0.0"),
        ({"shared": -1}, "shared must be a positive number"),
        ({"bandwidth": float("nan")}, "bandwidth must be a positive number; got nan"),
        ({"launch": "fast"}, "could not convert"),
        ({"launch": None}, "TypeError"),
    ],
)
def test_a_foreign_file(change, why, path, caplog):
    save_rates("cpu", MEASURED)
    edit(path, **change)
    assert_falls_back(caplog, why)


def test_other_devices_stay(path, monkeypatch):
    save_rates("cpu", MEASURED)
    monkeypatch.setattr("fairseq_el.planning.rates.this_processor", lambda device: Processor("A card", 0, "2.0"))
    save_rates("cuda", {"fp16": MEASURED["bf16"]})
    assert load_rates("cuda", "fp16") == MEASURED["bf16"]
    monkeypatch.undo()
    monkeypatch.setenv("FAIRSEQ_EL_RATES", str(path))
    assert load_rates("cpu", "bf16") == MEASURED["bf16"]


@pytest.mark.parametrize("failing", ["replace", "write_text"])
def test_a_save_that_is_cut_short_leaves_the_old_file(failing, path, monkeypatch):
    save_rates("cpu", MEASURED)
    before = path.read_bytes()

    def fail(*unused, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, failing, fail)
    with pytest.raises(KeyboardInterrupt):
        save_rates("cpu", {"fp32": MEASURED["bf16"]})
    monkeypatch.undo()
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def test_a_directory_that_can_not_be_written(path):
    path.parent.write_text("a file")
    with pytest.raises(OSError):
        save_rates("cpu", MEASURED)


def test_the_processor_has_a_name(monkeypatch):
    processor = this_processor("cpu")
    assert processor.name and processor.threads >= 1 and processor.torch[0].isdigit()

    def missing(*unused, **options):
        raise OSError

    monkeypatch.setattr("pathlib.Path.read_text", missing)
    assert this_processor("cpu").name
