"""``fairseq-el score``."""

from __future__ import annotations

import io
import json
import os
import re
from pathlib import Path

import pytest
from command_lines import failed
from printed import LINE_ENDS, printed
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
    assert "exists already; choose another name, or add --force" in failed(
        capsys, "score", output, "--extract", "src", tmp_path / "src"
    )
    assert main(["score", str(output), "--extract", "hypo", str(tmp_path / "src"), "--force"]) == 0
    assert (tmp_path / "src").read_text().startswith("the first")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["hypo", "output.txt", "ref", "src"]


def test_pieces_are_joined_if_asked(tmp_path, capsys):
    path = tmp_path / "output.txt"
    path.write_text("S-0\t\u2581x\nT-0\t\u2581the \u2581fir st\nH-0\t-1\t\u2581the \u2581fir st\n")
    assert "has pieces of words" in failed(capsys, "score", path)
    found = scores(capsys, path, "--post-process", "sentencepiece", "--metrics", "rouge")
    assert found["scores"]["rouge2"]["value"] == pytest.approx(100)


FILES = {
    "late": b"a\nb\n\xffc\n",
    "utf16": "Wörter\n".encode("utf-16"),
    "utf32": "Wörter\n".encode("utf-32"),
    "bare": "Wörter\nzwei\n".encode("utf-16-le"),
    "mac": b"a\rb\rc\nd\n",
    "quiet": b"2026-11-22 10:00:00 | INFO | fairseq_cli.generate | loading\nGenerate test with beam=5: BLEU4 = 0.00\n",
    "filtered": b"T-34\ta tank\n",
    "mixed": b"H-1\t-0.5\tis bold\nand this is not\n",
    "huge": b"S-1000000000000\ta\nH-0\t-1\ta\nP-0\t-0.5000\n",
}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere.txt"], "FILE must be a file that can be read; nowhere.txt can't be read: No such file"),
        (["{output}", "--ref", "nowhere.txt"], "--ref must be a file that can be read"),
        (["{output}", "--ref", "{output}"], "has 2 hypotheses, .* has 7 lines"),
        (["{output}", "--metrics", "meteor"], "must name metrics out of bleu, chrf, rouge; got 'meteor'"),
        (["{output}", "--samples", "-1"], "whole number from 0 to 100,000; got '-1'|expected one argument"),
        (["{output}", "--tokenize", "klingon"], "argument --tokenize: invalid choice: 'klingon'"),
        (["{output}", "--post-process", "klingon"], "must be one of fairseq's"),
        (["{output}", "--extract", "all", "-"], "--extract must be followed by hypo, ref or src; got 'all'"),
        (["{output}", "--extract", "ref", "{directory}"], "--extract must name a file; .* is a directory"),
        (["{empty}"], "FILE must have lines; .* is empty"),
        (["{binary}"], "FILE must be text in UTF-8; .* has byte 2"),
        (["{plain}"], "has no references .lines T-., so --ref FILE is needed"),
        (["{plain}", "--extract", "src", "-"], "has no sources"),
        (["{binary}"], "byte 2, in line 1, that is not"),
        (["{output}", "--ref", "{late}"], "--ref must be text in UTF-8; .* has byte 4, in line 3, that is not"),
        (["{utf16}"], "FILE must be text in UTF-8; .* is in UTF-16. Convert it: iconv -f UTF-16 -t UTF-8 "),
        (["{output}", "--ref", "{bare}"], "--ref must be text in UTF-8; .* is in UTF-16LE. Convert it"),
        (["{utf32}"], "is in UTF-32"),
        (["/dev/zero"], "FILE must be a file that can be read; /dev/zero is a device"),
        (["a\0b"], "no argument can have a NUL"),
        (["{directory}"], "FILE must be a file that can be read; .* is a directory"),
        (["{mac}", "--ref", "{plain}"], "has 2 hypotheses, .* has 1 lines .only a newline ends a line; 1 have other"),
        (["{plain}", "--format", "fairseq"], "has no hypotheses: was it given --quiet"),
        (["{quiet}"], "has no hypotheses: was it given --quiet"),
        (
            ["{filtered}"],
            "may be .* or plain text: 1 lines begin as .* with T-34., 0 do not.* Give --format fairseq or",
        ),
        (["{mixed}"], "may be .* or plain text: 1 lines begin as .* with H-1., 1 do not"),
        (["{huge}"], "line 1 has a sentence whose number has 13 digits"),
    ],
)
def test_bad_input(arguments, message, output, tmp_path, capsys):
    (tmp_path / "empty").write_text("")
    (tmp_path / "binary").write_bytes(b"ab\xff\xfe")
    (tmp_path / "plain").write_text("a\n")
    for name, text in FILES.items():
        (tmp_path / name).write_bytes(text)
    names = {name: tmp_path / name for name in ("empty", "binary", "plain", *FILES)}
    filled = [argument.format(output=output, directory=tmp_path, **names) for argument in arguments]
    assert re.search(message, failed(capsys, "score", *filled))


@pytest.mark.parametrize("interactive", [False, True])
def test_texts_with_line_ends_are_scored_whole(interactive, tmp_path, capsys):
    """What comes after any kind of line end counts, in hypotheses and in references."""
    texts = [f"the cat sat{end}on the mat {number}" for number, end in enumerate(LINE_ENDS)]
    (tmp_path / "output").write_bytes(printed(texts, texts, interactive=interactive).encode())
    words = [" ".join(text.split()) for text in texts]
    (tmp_path / "words").write_bytes("".join(text + "\n" for text in words).encode())
    for options in [["--ref", tmp_path / "words"]] + ([] if interactive else [[]]):
        found = scores(capsys, tmp_path / "output", *options)
        assert found["sentences"] == len(texts)
        assert [score["value"] for name, score in found["scores"].items() if name != "rougeLsum"] == [
            pytest.approx(100)
        ] * 5
    for what in ["hypo"] + ([] if interactive else ["ref"]):
        assert main(["score", str(tmp_path / "output"), "--extract", what, str(tmp_path / what)]) == 0
        assert "3 texts have line ends in them, which are spaces in" in capsys.readouterr().err
        lines = (tmp_path / what).read_bytes().decode().split("\n")
        assert [" ".join(line.split()) for line in lines] == [*words, ""]
        with (tmp_path / what).open(encoding="utf-8") as file:  # as sacrebleu reads it
            assert len(list(file)) == len(texts)
    assert scores(capsys, tmp_path / "hypo", "--ref", tmp_path / "words")["scores"]["BLEU"]["value"] == pytest.approx(
        100
    )


def test_plain_text_may_begin_as_a_record_does(tmp_path, capsys):
    text = "T-34\tis a tank\nand so is\tthis one\nS-1\tis a train\nH-1\tis bold\n"
    for name in ("hypo", "ref"):
        (tmp_path / name).write_text(text)
    found = scores(capsys, tmp_path / "hypo", "--ref", tmp_path / "ref")
    assert found["sentences"] == 4 and found["scores"]["BLEU"]["value"] == pytest.approx(100)
    (tmp_path / "one").write_text("T-34\tis a tank\n")
    assert "--format text" in failed(capsys, "score", tmp_path / "one", "--ref", tmp_path / "one")
    assert scores(capsys, tmp_path / "one", "--ref", tmp_path / "one", "--format", "text")["sentences"] == 1


def test_format_is_what_is_given(output, capsys):
    (output.parent / "ref").write_text(OUTPUT)
    found = scores(capsys, output, "--ref", output.parent / "ref", "--format", "text")
    assert found["sentences"] == OUTPUT.count("\n")
    assert scores(capsys, output, "--format", "fairseq")["sentences"] == 2


def test_byte_order_marks_and_windows_line_ends_are_no_text(tmp_path, capsys):
    (tmp_path / "plain").write_bytes(b"one two three four\nfive six seven eight\n")
    (tmp_path / "marked").write_bytes(b"\xef\xbb\xbfone two three four\r\nfive six seven eight\r\n")
    (tmp_path / "output").write_bytes(
        b"\xef\xbb\xbfS-1\ta\nT-1\tfive six seven eight\nH-1\t-1\tfive six seven eight\n"
        b"S-0\ta\nT-0\t\xef\xbb\xbfone two three four\nH-0\t-1\tone two three four\n"
    )
    for file, options in (("plain", ["marked"]), ("marked", ["plain"]), ("output", ["marked"]), ("output", [])):
        given = [option for name in options for option in ("--ref", tmp_path / name)]
        found = scores(capsys, tmp_path / file, *given, "--tokenize", "char")
        assert [score["value"] for score in found["scores"].values()] == [pytest.approx(100)] * 6
    assert main(["score", str(tmp_path / "marked"), "--extract", "hypo", str(tmp_path / "out")]) == 0
    assert (tmp_path / "out").read_bytes() == (tmp_path / "plain").read_bytes()


def test_rouge_warns_of_letters_that_it_does_not_see(tmp_path, capsys):
    (tmp_path / "text").write_text("\u043f\u0440\u0438\u0432\u0435\u0442 \u043c\u0438\u0440\n", "utf-8")
    arguments = ["score", str(tmp_path / "text"), "--ref", str(tmp_path / "text"), "--json"]
    assert main(arguments) == 0
    printed = capsys.readouterr()
    (warning,) = json.loads(printed.out)["warnings"]
    assert printed.err == f"fairseq-el: warning: {warning}\n" and "100.0 % of those of hypotheses" in warning
    assert "(Cyrillic)" in warning and "\n" not in warning
    assert main([*arguments, "--metrics", "bleu,chrf"]) == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out)["warnings"] == [] and printed.err == ""


def test_standard_output_that_can_not_hold_a_text(tmp_path, capsys, monkeypatch):
    (tmp_path / "text").write_text("a\nW\u00f6rter\n", "utf-8")
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(io.BytesIO(), encoding="ascii"))
    assert main(["score", str(tmp_path / "text"), "--extract", "hypo", "-"]) == 1
    assert "standard output is in ascii, which has no 'ö'. Set PYTHONIOENCODING=utf-8" in capsys.readouterr().err


def test_marks_of_line_ends_are_named(tmp_path, capsys):
    (tmp_path / "text").write_text("One sentence.<n>Another one.\nA third.\n")
    (warning,) = scores(capsys, tmp_path / "text", "--ref", tmp_path / "text")["warnings"]
    assert warning.startswith("2 texts have line ends in them, or <n> or <q>")


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
