"""``fairseq-el bench`` with real worker processes."""

from __future__ import annotations

import importlib.util
import json
import re

import pytest
from bench.conftest import make

from fairseq_el.cli import main


@pytest.fixture(scope="module")
def bart(tmp_path_factory):
    return make(tmp_path_factory.mktemp("bart"), "bart_base", share_all_embeddings=True)


def bench(bart, *arguments) -> int:
    return main(["bench", str(bart.data), "--path", str(bart.path), *map(str, arguments)])


def is_installed(package) -> bool:
    return importlib.util.find_spec(package) is not None


@pytest.mark.long
def test_programs_side_by_side(bart, tmp_path, capsys):
    pytest.importorskip("matplotlib", reason="matplotlib is not installed: pip install fairseq_el[bench]")
    methods = ["stock", "el", "el@bf16"]  # stock in bf16 decodes too, to check against, and is not in the table
    methods += ["hf"] if is_installed("transformers") else []
    methods += ["ct2:float32"] if is_installed("ctranslate2") else []
    out = tmp_path / "results"
    options = [
        "--methods",
        ",".join(methods),
        "--batch",
        "4,2",
        "--src-len",
        9,
        "--tgt-len",
        8,
        "--runs",
        2,
        "--beam",
        3,
    ]
    options += ["--no-repeat-ngram-size", 3, "--per-step", "--out", out, "--threads", 1]
    assert bench(bart, *options) == 0
    printed = capsys.readouterr().out

    assert sorted(path.name for path in out.iterdir()) == ["bench.json", "bench.md", "bench.png"]
    report = json.loads((out / "bench.json").read_text())
    assert len(report["results"]) == 2 * len(methods)
    for result in report["results"]:
        assert len(result["seconds"]) == len(result["step_seconds"]) == 2
        assert result["source_longest"] <= 9
        assert result["peak_bytes"] > 0
        assert result["method"] in printed
        assert result["words_out"] == (8 if result["method"].startswith("ct2") else 9) * result["batch"]
        if result["method"] == "el@bf16":
            assert result["score_error"]["per_word"] <= 2 * result["score_error_of_stock"]["per_word"]
        else:
            assert result["score_error"]["per_word"] < 1e-5
        if result["method"] in ("el@fp32", "hf@fp32"):
            assert result["identical_to_stock"] == 1
    assert set(report["growth_of_step_time_with_batch"]) == {result["method"] for result in report["results"]}
    assert report["results"][0]["times_faster"] == {"median": 1, "minimum": 1, "maximum": 1}
    signature = report["signature"]
    assert signature["model"].startswith("2+2 layers, width 16, 44 words")
    assert signature["command"].startswith("fairseq-el bench ")
    markdown = (out / "bench.md").read_text()
    assert "| stock@fp32" in markdown
    assert "beam 3; src-len 9; tgt-len 8; runs 2" in markdown
    assert (out / "bench.png").read_bytes().startswith(b"\x89PNG")

    assert bench(bart, *options) == 2
    assert "has bench.json, bench.md, bench.png already; choose another one, or add --force" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--methods", "stock,fast"], "--methods must name methods out of .* got 'fast'"),
        (["--methods", "el@fp8"], "dtype of a method must be one of"),
        (["--dtype", "int8"], "argument --dtype: invalid choice"),
        (["--baseline", "hf"], "--baseline must be one of the methods, stock@fp32, el@fp32; got hf"),
        (["--batch", "4,4"], "must name every number once"),
        (["--per-step"], "--per-step needs a --tgt-len from 4 on; got 0"),
        (["--diverse-beam-groups", "3"], "--beam must be a multiple of --diverse-beam-groups"),
        (["--path", "nowhere.pt"], "nowhere.pt does not exist"),
    ],
)
def test_usage_errors(bart, arguments, message, capsys):
    try:
        status = bench(bart, *arguments)
    except SystemExit as exit_:
        status = exit_.code
    assert status == 2
    assert re.match(f"fairseq-el: error: .*{message}", capsys.readouterr().err)


def test_a_card_that_is_missing(bart, capsys, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert bench(bart, "--device", "cuda") == 2
    assert "--device cuda needs a card that this torch can use" in capsys.readouterr().err


@pytest.mark.long
def test_a_language_model(tiny_gpt, capsys):
    options = ["--batch", 4, "--src-len", 4, "--tgt-len", 6, "--runs", 1, "--threads", 1, "--json"]
    assert bench(tiny_gpt, "--methods", "stock,el,auto", "--no-repeat-ngram-size", 3, *options) == 0
    results = json.loads(capsys.readouterr().out)["results"]
    assert [result["method"] for result in results] == ["stock@fp32", "el@fp32", "auto@fp32"]
    assert all(result["identical_to_stock"] == 1 and result["words_out"] == 4 * 7 for result in results)
    assert all(result["source_longest"] == 4 and result["score_error"]["per_word"] < 1e-5 for result in results)


def test_other_programs_decode_no_language_models(tiny_gpt, capsys):
    pytest.importorskip("transformers", reason="transformers is not installed: pip install fairseq_el[bench]")
    assert bench(tiny_gpt, "--methods", "stock,hf", "--src-len", 4) == 1
    assert "hf@fp32 decodes no language models here; leave it out" in capsys.readouterr().err


def test_a_package_that_is_missing(bart, capsys, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert bench(bart, "--methods", "stock,ct2:int8") == 1
    assert "ct2:int8 needs ctranslate2: pip install fairseq_el[bench]" in capsys.readouterr().err


def test_no_other_program_has_diverse_beam_search(bart, capsys):
    pytest.importorskip("transformers", reason="transformers is not installed: pip install fairseq_el[bench]")
    assert bench(bart, "--methods", "stock,hf", "--diverse-beam-groups", 2) == 1
    assert "hf@fp32 has no diverse beam search" in capsys.readouterr().err
