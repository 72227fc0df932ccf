"""``fairseq-el score``."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest
from rouge_score import rouge_scorer

from fairseq_el.cli import main
from fairseq_el.scoring import SPLITS

OUTPUT = (
    "S-1\tb\nT-1\tthe second one\nH-1\t-1\tthe second one\nD-1\t-1\tthe second one\n"
    "S-0\ta\nT-0\tthe first one\nD-0\t-1\tthe first one\n"
)
SHARED = Path(os.environ.get("FAIRSEQ_EL_SHARED", Path(__file__).resolve().parents[3] / "shared"))
CNNDM = SHARED / "data" / "cnndm_128"


@pytest.fixture()
def output(tmp_path):
    path = tmp_path / "output.txt"
    path.write_text(OUTPUT)
    return path


def error(capsys, *arguments) -> str:
    try:
        assert main(["score", *map(str, arguments)]) != 0
    except SystemExit as exit_:
        assert exit_.code == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    return printed.err


def scores(capsys, *arguments):
    assert main(["score", *map(str, arguments), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_output_against_its_own_references(output, capsys):
    found = scores(capsys, output)
    assert found["sentences"] == 2
    assert list(found["scores"]) == ["BLEU", "chrF2", "rouge1", "rouge2", "rougeL", "rougeLsum"]
    assert found["scores"]["rouge1"]["value"] == pytest.approx(100)
    assert main(["score", str(output), "--confidence", "--samples", "20"]) == 0
    table = capsys.readouterr().out
    assert table.startswith("2 sentences\n")
    assert re.search(
        r"rougeLsum +100\.00 +100\.00 to 100\.00 +bs:20\|seed:12345\|nrefs:1\|stem:porter\|sents:punct", table
    )


def test_plain_text_with_two_references(tmp_path, capsys):
    for name, text in (("hypo", "a b c d\n"), ("one", "a b x y\n"), ("two", "a b c d\n")):
        (tmp_path / name).write_text(text)
    options = [tmp_path / "hypo", "--metrics", "bleu,rouge", "--ref", tmp_path / "one"]
    one = scores(capsys, *options)["scores"]
    two = scores(capsys, *options, "--ref", tmp_path / "two")["scores"]
    assert one["rouge1"]["value"] == pytest.approx(50)
    assert two["rouge1"]["value"] == pytest.approx(100) and two["BLEU"]["value"] == pytest.approx(100)
    assert "chrF2" not in one


def test_ordered_text(output, tmp_path, capsys):
    for what, text in (
        ("hypo", "the first one\nthe second one\n"),
        ("src", "a\nb\n"),
        ("ref", "the first one\nthe second one\n"),
    ):
        assert main(["score", str(output), "--extract", what, str(tmp_path / what)]) == 0
        assert (tmp_path / what).read_text() == text
    assert main(["score", str(output), "--extract", "src", "-"]) == 0
    assert capsys.readouterr().out == "a\nb\n"
    assert "exists already; choose another name, or add --force" in error(
        capsys, output, "--extract", "src", tmp_path / "src"
    )
    assert main(["score", str(output), "--extract", "hypo", str(tmp_path / "src"), "--force"]) == 0
    assert (tmp_path / "src").read_text().startswith("the first")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["hypo", "output.txt", "ref", "src"]


def test_pieces_are_joined_if_asked(tmp_path, capsys):
    path = tmp_path / "output.txt"
    path.write_text("S-0\t\u2581x\nT-0\t\u2581the \u2581fir st\nH-0\t-1\t\u2581the \u2581fir st\n")
    assert "has pieces of words" in error(capsys, path)
    found = scores(capsys, path, "--post-process", "sentencepiece", "--metrics", "rouge")
    assert found["scores"]["rouge2"]["value"] == pytest.approx(100)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere.txt"], "FILE must be a file that can be read; nowhere.txt: No such file"),
        (["{output}", "--ref", "nowhere.txt"], "--ref must be a file that can be read"),
        (["{output}", "--ref", "{output}"], "has 2 hypotheses, .* has 7 lines"),
        (["{output}", "--metrics", "meteor"], "must name metrics out of bleu, chrf, rouge; got 'meteor'"),
        (["{output}", "--samples", "-1"], "whole number from 0 on; got '-1'|expected one argument"),
        (["{output}", "--tokenize", "klingon"], "argument --tokenize: invalid choice: 'klingon'"),
        (["{output}", "--post-process", "klingon"], "must be one of fairseq's"),
        (["{output}", "--extract", "all", "-"], "--extract must be followed by hypo, ref or src; got 'all'"),
        (["{output}", "--extract", "ref", "{directory}"], "--extract must name a file; .* is a directory"),
        (["{empty}"], "FILE must have lines; .* is empty"),
        (["{binary}"], "FILE must be text in UTF-8; .* has byte 2"),
        (["{plain}"], "has no references .lines T-., so --ref FILE is needed"),
        (["{plain}", "--extract", "src", "-"], "has no sources"),
    ],
)
def test_bad_input(arguments, message, output, tmp_path, capsys):
    (tmp_path / "empty").write_text("")
    (tmp_path / "binary").write_bytes(b"ab\xff\xfe")
    (tmp_path / "plain").write_text("a\n")
    names = {name: tmp_path / name for name in ("empty", "binary", "plain")}
    filled = [argument.format(output=output, directory=tmp_path, **names) for argument in arguments]
    assert re.search(message, error(capsys, *filled))


def test_real_summaries_score_as_rouge_score_has_them(capsys, tmp_path):
    """What the real bart.large.cnn wrote, against the first three sentences of the articles."""
    if not CNNDM.is_dir():
        pytest.skip(f"{CNNDM} is not there (FAIRSEQ_EL_SHARED)")
    hypotheses = (CNNDM / "bart_large_cnn.hypo").read_text("utf-8").splitlines()
    articles = (CNNDM / "articles.txt").read_text("utf-8").splitlines()
    leads = [" ".join(SPLITS["punctuation"](article)[:3]) for article in articles]
    assert len(hypotheses) == len(leads) == 128
    (tmp_path / "leads").write_text("".join(lead + "\n" for lead in leads), "utf-8")
    found = scores(capsys, CNNDM / "bart_large_cnn.hypo", "--ref", tmp_path / "leads", "--metrics", "rouge")["scores"]
    scorer = rouge_scorer.RougeScorer(["rouge1", "rouge2", "rougeL", "rougeLsum"], use_stemmer=True)
    direct = [
        scorer.score("\n".join(SPLITS["punctuation"](lead)), "\n".join(SPLITS["punctuation"](hypothesis)))
        for hypothesis, lead in zip(hypotheses, leads)
    ]
    for name, score in found.items():
        assert score["value"] == pytest.approx(100 * sum(one[name].fmeasure for one in direct) / 128, rel=1e-9)
