"""``benchmarks/topk_quality.py`` with a tiny model: what is run, what is kept, and what the tables say."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import sys

import pytest
from commands import REPOSITORY, assert_same_hypotheses, run, texts
from test_train import TINY

from fairseq_el import cli

DECODING = ["--beam", "2", "--max-len-b", "6", "--remove-bpe", "sentencepiece"]


@pytest.fixture
def quality(monkeypatch):
    """The script: called with arguments, gives the programs it has run (in forks or here, which is faster)."""
    spec = importlib.util.spec_from_file_location("topk_quality", REPOSITORY / "benchmarks" / "topk_quality.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)

    def call(*arguments):
        programs = []

        def run_program(module, options, output, log):
            programs.append(module.split(".")[-1])
            if module == "fairseq_el.cli":
                with output.open("w", encoding="utf-8") as file, contextlib.redirect_stdout(file):
                    assert cli.main([*map(str, options)]) == 0
                return
            process = run(module.split(".")[-1], *options)
            output.write_text(process.stdout, "utf-8")
            log.write_text(process.stderr, "utf-8")

        monkeypatch.setattr(script, "run_program", run_program)
        monkeypatch.setattr(sys, "argv", ["topk_quality.py", *map(str, arguments)])
        script.main()
        return programs

    return call


def test_from_scratch_as_it_is_and_fine_tuned(quality, data, tmp_path, capsys):
    """With a learning rate of 0, fine-tuning changes nothing: it starts from the checkpoint, and has its shape."""
    shape = " ".join(["--arch transformer --encoder-normalize-before --max-tokens 200", *TINY])
    scratch = [data, "--out", tmp_path / "new", "--scratch", "2", "--train", shape, *DECODING]
    assert quality(*scratch, "--attention", "full") == ["train", "generate", "cli"]

    out = tmp_path / "out"
    path = tmp_path / "new" / "full-from-scratch" / "checkpoint_last.pt"
    options = [data, "--path", path, "--out", out, *DECODING]
    assert quality(*options, "--attention", "1,full") == ["generate", "cli"] * 2
    tuning = ["--finetune", "2", "--train", "--lr 0 --max-tokens 200"]
    assert quality(*options, "--attention", "1", *tuning) == ["train", "generate", "cli"], (
        "finished runs are done again"
    )
    new, full, few, tuned = (
        file.read_text("utf-8")
        for file in (
            tmp_path / "new" / "full-from-scratch.txt",
            out / "full-as-it-is.txt",
            out / "attention-1-as-it-is.txt",
            out / "attention-1-fine-tuned.txt",
        )
    )
    assert_same_hypotheses(full, new, num_sentences=40)
    assert_same_hypotheses(tuned, few, num_sentences=40)
    assert "Top-k of 1 in 5 attention modules" in (out / "attention-1-fine-tuned.log").read_text("utf-8")

    table = (out / "table.md").read_text("utf-8")
    assert capsys.readouterr().out.endswith(table)
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines()]
    assert cells[0] == ["k of attention", "as it is: BLEU", "identical to full", "fine-tuned: BLEU", "valid loss"]
    same = sum(text == full_text for (_, text), (_, full_text) in zip(texts(few, "H"), texts(full, "H")))
    kept = json.loads((out / "results.json").read_text("utf-8"))["results"]["attention 1"]
    score = f"{kept['as it is']['scores']['BLEU']['value']:.2f}"
    ((update, loss),) = kept["fine-tuned"]["valid_loss"]
    assert update == 2 and cells[2] == ["1", score, f"{same} of 40", score, loss] and same < 40

    with pytest.raises(SystemExit, match=r"was made with decoding .* choose another --out"):
        quality(*options, "--beam", "1", "--attention", "2")


@pytest.mark.parametrize("name", ["full-as-it-is.txt", "results.json"])
def test_a_directory_of_others_stays(name, quality, tmp_path):
    """With files that have the names of what would be written."""
    (tmp_path / name).write_text('{"precious": 1}')
    with pytest.raises(SystemExit, match="--out must be a new directory, or have the results"):
        quality("data-bin", "--out", tmp_path, "--path", "model.pt", "--attention", "2")
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_text() == '{"precious": 1}'


def test_what_is_decoded_must_be_clear(quality, tmp_path, capsys):
    for options, expected in (
        ([], "--attention LIST or --ffn LIST is needed"),
        (["--attention", "0"], "must be numbers from 1 on, or full, with commas; got '0'"),
        (["--attention", "2"], "either --path FILE or --scratch N is needed"),
        (["--attention", "2", "--scratch", "1"], "--scratch needs an architecture"),
    ):
        with pytest.raises(SystemExit):
            quality("data-bin", "--out", tmp_path / "out", *options)
        assert expected in capsys.readouterr().err and not (tmp_path / "out").exists()
