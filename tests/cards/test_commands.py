"""Commands that decode in other programs say what these would say, before they start any."""

from __future__ import annotations

import importlib
import types

import pytest
from command_lines import call, program_of

from fairseq_el import NoKernelsError
from fairseq_el.cards import check
from fairseq_el.cli import calibrate, verify
from fairseq_el.cli.main import main

NEWEST = ["sm_75", "sm_80"]
generate = importlib.import_module("fairseq_el.recipes.generate_step")


@pytest.fixture
def data(tmp_path):
    """A data directory and a checkpoint, as far as command lines look."""
    (tmp_path / "data").mkdir()
    (tmp_path / "model.pt").write_bytes(b"")
    return [str(tmp_path / "data"), "--path", str(tmp_path / "model.pt")]


@pytest.mark.parametrize("command", ["bench", "bench --device cuda", "verify", "calibrate", "slim", "topk"])
def test_no_kernels(command, data, fake_torch, monkeypatch, capsys):
    fake_torch((7, 0), NEWEST)
    monkeypatch.setattr(check, "shown_cards", lambda: types.SimpleNamespace(cards=[]))
    arguments = {
        "bench": ["bench", *data],
        "bench --device cuda": ["bench", *data, "--device", "cuda"],
        "verify": ["verify", *data, "--task", "translation"],
        "calibrate": ["calibrate"],
        "slim": ["slim_training.py", "--device", "cuda"],
        "topk": ["topk_layers.py"],
    }[command]
    assert call(arguments) == 1
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.count("\n") == 1
    assert captured.err.startswith(
        f"{program_of(arguments)}: error: torch 2.13.0+cu130 has no kernels for this card, Tesla V100"
    )
    assert captured.err.endswith("pip install torch==2.10.0\n")


def test_a_card_that_torch_does_not_see(data, fake_torch, nvidia_smi, capsys):
    fake_torch()
    nvidia_smi(("8.0", "535.104.05"))
    assert main(["bench", *data, "--device", "cuda"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("fairseq-el: error: --device cuda needs a card that this torch can use, and there is none; ")
    assert "CUDA 13.0, for which the driver is too old" in said and said.endswith("pip install torch==2.10.0\n")


class StartedError(Exception):
    """A command has come to the point where it starts to decode."""


def start(*arguments, **options):
    raise StartedError


@pytest.mark.parametrize(("asked", "warned"), [([], True), (["--cpu"], False)])
def test_verify_warns(asked, warned, data, fake_torch, nvidia_smi, monkeypatch, caplog):
    fake_torch()
    nvidia_smi(("8.0", "535.104.05"))
    monkeypatch.setattr(verify, "run_program", start)
    with pytest.raises(StartedError):
        main(["verify", *data, "--task", "translation", *asked])
    assert ("Decoding goes on on the CPU" in caplog.text) is warned


def test_calibrate_warns(fake_torch, nvidia_smi, monkeypatch, caplog):
    fake_torch()
    nvidia_smi(("8.0", "535.104.05"))
    monkeypatch.setattr(calibrate, "calibrate", start)
    with pytest.raises(StartedError):
        main(["calibrate"])
    assert "Decoding goes on on the CPU" in caplog.text
    caplog.clear()
    check.warn_of_idle_card.cache_clear()
    with pytest.raises(StartedError):
        main(["calibrate", "--device", "cpu"])
    assert caplog.text == ""


def test_recipes(fake_torch, nvidia_smi, monkeypatch, caplog):
    output = types.SimpleNamespace(is_up_to_date=lambda: False, refuse_to_replace=lambda: None)
    monkeypatch.setattr(generate, "output_of", lambda recipe, work: output)
    monkeypatch.setattr(generate, "data_of", start)
    fake_torch()
    nvidia_smi(("8.0", "535.104.05"))
    with pytest.raises(StartedError):
        generate.generate(None, None, print)
    assert "Decoding goes on on the CPU" in caplog.text
    fake_torch((7, 0), NEWEST)
    with pytest.raises(NoKernelsError):
        generate.generate(None, None, print)


def test_the_table_of_compare(tmp_path, fake_torch, nvidia_smi, monkeypatch, caplog):
    """``benchmarks/compare.py``, and with it ``make demo``."""
    compare = importlib.import_module("compare")
    monkeypatch.setattr(compare, "decode", start)
    fake_torch()
    nvidia_smi(("8.0", "535.104.05"))
    with pytest.raises(StartedError):
        compare.compare(["data", "--cpu"], 1, tmp_path)
    assert caplog.text == ""
    with pytest.raises(StartedError):
        compare.compare(["data"], 1, tmp_path)
    assert "Decoding goes on on the CPU" in caplog.text
    fake_torch((7, 0), NEWEST)
    with pytest.raises(SystemExit, match="has no kernels for this card"):
        compare.compare(["data"], 1, tmp_path)
