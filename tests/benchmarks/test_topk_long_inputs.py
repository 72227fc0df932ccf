"""``benchmarks/topk_model.py`` and ``topk_perplexity.py``: bytes of a whole model, and perplexity with every k."""

from __future__ import annotations

import json

import pytest
import topk_model
import topk_perplexity
from commands import EXAMPLE, run

from fairseq_el.measure import CAN_TRACK

SMALL = ["--length", 60, "--layers", 2, "--heads", 2, "--head-dim", 4, "--hidden", 16, "--k", 5, "--hidden-k", 6]


@pytest.mark.skipif(not CAN_TRACK, reason="torch before 2.1 can't be asked how long a storage lives")
def test_bytes_of_a_whole_model(capsys):
    assert topk_model.main([*map(str, SMALL), "--threads", "1", "--stock-mask"]) == 0
    printed = capsys.readouterr().out
    for name in ("one attention layer", "model", "model with fairseq's mask"):
        assert name in printed
    assert "python benchmarks/topk_model.py --length 60" in printed


@pytest.mark.skipif(not CAN_TRACK, reason="torch before 2.1 can't be asked how long a storage lives")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--length", "5", "--k", "5"], "--length must be more than --k, 5, or nothing is left out; got 5"),
        (["--layers", "0"], "must be a whole number from 1 on; got '0'"),
        (["--dropout", "1"], "--dropout: must be at least 0 and below 1; got '1'"),
    ],
)
def test_models_that_are_refused(options, message, capsys):
    try:
        status = topk_model.main([*map(str, SMALL), *options])
    except SystemExit as ended:
        status = ended.code
    assert status == 2 and message in capsys.readouterr().err


@pytest.fixture
def data(tmp_path):
    content = (EXAMPLE / "captions.en").read_bytes()
    (tmp_path / "data").mkdir()
    for split, part in (("train", content[:300]), ("valid", content[300:400]), ("test", content[400:500])):
        (tmp_path / "data" / split).write_bytes(part)
    return tmp_path / "data"


@pytest.mark.long
def test_perplexities(data, tmp_path, monkeypatch, capsys):
    """Models are trained once; with as many scores as there are the perplexity is that without Top-k."""
    trained = []

    def run_program(module, options, output, log):
        trained.append(options[options.index("--arch") + 1])
        process = run(module.split(".")[-1], *options)
        output.write_text(process.stdout, "utf-8")
        log.write_text(process.stderr, "utf-8")

    monkeypatch.setattr(topk_perplexity, "run_program", run_program)
    out = tmp_path / "out"
    small = "--decoder-embed-dim 8 --decoder-input-dim 8 --decoder-output-dim 8 --decoder-ffn-embed-dim 8"
    command = [data, "--out", out, "--length", 40, "--updates", 2, "--finetune", 1, "--scratch", 2, "--train", small]
    command = [str(word) for word in command]
    assert topk_perplexity.main([*command, "--attention", "40,full"]) == 0
    assert trained == ["transformer_lm", *2 * ["topk_transformer_lm"], "transformer_lm"]
    assert topk_perplexity.main([*command, "--attention", "2"]) == 0
    assert trained[4:] == 2 * ["topk_transformer_lm"]
    found = json.loads((out / "results.json").read_text())["of"]
    assert found["40"]["as it is"] == pytest.approx(found["full"]["as it is"], rel=1e-6)
    assert found["full"]["from scratch"] == found["full"]["as it is"]  # the same model
    assert found["40"]["from scratch"] == pytest.approx(found["full"]["from scratch"], rel=1e-5)
    assert found["2"]["as it is"] != found["full"]["as it is"] and 1 < found["2"]["as it is"][0] < 12
    table = (out / "table.md").read_text().splitlines()
    assert [line.split("|")[1].strip() for line in table[2:]] == ["2", "40", "full"]
    printed = capsys.readouterr().out
    for text in ("perplexity, tuned", "perplexity, from scratch", "command: python benchmarks/topk_perplexity.py"):
        assert text in printed
    assert topk_perplexity.main([*command, "--attention", "2", "--updates", "3"]) == 2
    assert "was made with updates 2, this is 3; choose another --out" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--attention", "0"], "must be numbers from 1 on, or full, with commas; got '0'"),
        (["--attention", "4,all"], "must be numbers from 1 on, or full, with commas; got 'all'"),
        (["--attention", "4", "--length", "x"], "must be a whole number from 1 on; got 'x'"),
        (["--attention", "4", "--out", "docs"], "--out must be a new directory, or one that this program made; docs"),
    ],
)
def test_perplexities_of_nothing(options, message, tmp_path, capsys):
    try:
        status = topk_perplexity.main(["nowhere", "--out", str(tmp_path / "out"), *options])
    except SystemExit as ended:
        status = ended.code
    assert status == 2 and message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
