"""``fairseq-el calibrate`` without its clock."""

from __future__ import annotations

import argparse
import json
import re

import pytest
import torch

from fairseq_el.cli import calibrate as command
from fairseq_el.cli import main
from fairseq_el.errors import FairseqElError
from fairseq_el.planning import default_rates, load_rates
from fairseq_el.planning.calibration import LAYER_SIZES, Calibration, OperationTime

RATES = default_rates("cpu", "bf16")


@pytest.fixture
def path(tmp_path, monkeypatch):
    """The file; nothing is measured, and the machine has no card."""
    target = tmp_path / "cache" / "rates.json"
    monkeypatch.setenv("FAIRSEQ_EL_RATES", str(target))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(command, "supported_dtype", lambda name, device: (name if name != "fp16" else "fp32", ""))
    pretend(monkeypatch)
    return target


def pretend(monkeypatch, cores_per_thread=1.0):
    def calibrate(device, dtypes, progress):
        assert (device, dtypes) == ("cpu", ["fp32", "bf16"])
        progress("fp32 el")
        measurements = (
            OperationTime("fp32", "el", LAYER_SIZES[0], 0.032, 0.036),
            OperationTime("bf16", "shared-kv", LAYER_SIZES[1], 0.0084, 0.0063),
        )
        cores = cores_per_thread * torch.get_num_threads()
        return Calibration(device, dict.fromkeys(dtypes, RATES), measurements, cores)

    monkeypatch.setattr(command, "calibrate", calibrate)


def run(*arguments):
    parser = argparse.ArgumentParser()
    command.add_parser(parser.add_subparsers(), "")
    options = parser.parse_args(["calibrate", *arguments])
    return options.run(options)


def test_tables(path, capsys):
    assert run() == 0
    output = capsys.readouterr()
    assert re.search(r"fp32 +704 GFLOP/s +475 GFLOP/s +14\.2 GB/s +20\.0 GB/s +13 us", output.out)
    assert re.search(r"fp32 +el +16 x 4 x 1,024, 16 heads, width 1,024 +32 ms +36 ms +\+12%", output.out)
    assert re.search(r"bf16 +shared-kv +16 x 1 x 1,024, 16 heads, width 1,024 +8\.4 ms +6\.3 ms +-25%", output.out)
    assert output.out.endswith(f"Predictions are off by up to 25%. Written to {path}\n")
    assert output.err == ""  # no progress bar where nobody looks
    assert load_rates("cpu", "bf16") == RATES


def test_json(path, capsys):
    assert run("--json") == 0
    result = json.loads(capsys.readouterr().out)
    assert result["file"] == str(path) and result["device"] == "cpu"
    assert result["processor"]["threads"] == torch.get_num_threads()
    assert result["rates"]["fp32"]["dense"] == RATES.dense
    assert result["largest_error"] == pytest.approx(0.25)
    first = result["measurements"][0]
    assert (first["size"]["src_len"], first["measured"], first["error"]) == (1024, 0.032, pytest.approx(0.125))


def test_nothing_is_written_on_a_busy_machine(path, monkeypatch):
    pretend(monkeypatch, cores_per_thread=0.6)
    with pytest.raises(FairseqElError, match=r"had \d\.\d cores while this was measured, so nothing was written"):
        run()
    assert not path.parent.exists()


def test_a_file_that_can_not_be_written(path):
    path.parent.write_text("a file")
    with pytest.raises(FairseqElError, match=r"could not be written to .*rates\.json: .*FAIRSEQ_EL_RATES"):
        run()


def test_the_old_spelling(path, capsys):
    assert main(["bench", "--calibrate", "--json"]) == 0
    output = capsys.readouterr()
    assert json.loads(output.out)["file"] == str(path)
    assert output.err == "fairseq-el: note: bench --calibrate is fairseq-el calibrate now\n"
