"""``scripts/topk_quality.py`` with a tiny model: what is run, what is kept, and what the tables say."""

from __future__ import annotations

import importlib.util
import json
import sys

import pytest
from commands import LOSE_NO_SENTENCE, REPOSITORY, USER_DIR, assert_same_hypotheses, run
from test_train import TINY, TRAINING

PROGRAMS = {"fairseq_cli.train": "train", "fairseq_cli.generate": "generate", "fairseq_el.cli": "el"}
DECODING = ["--beam", "2", "--max-len-b", "6", "--remove-bpe", "sentencepiece"]


@pytest.fixture
def quality(monkeypatch):
    """The script: called with arguments, gives the programs it has run (in forks, which start faster)."""
    spec = importlib.util.spec_from_file_location("topk_quality", REPOSITORY / "scripts" / "topk_quality.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)

    def call(*arguments):
        programs = []

        def run_program(module, options, output, log):
            programs.append(PROGRAMS[module])
            process = run(PROGRAMS[module], *options)
            output.write_text(process.stdout, "utf-8")
            log.write_text(process.stderr, "utf-8")

        monkeypatch.setattr(script, "run_program", run_program)
        monkeypatch.setattr(sys, "argv", ["topk_quality.py", *map(str, arguments)])
        script.main()
        return programs

    return call


def test_a_checkpoint_as_it_is_and_fine_tuned(quality, data, tmp_path, capsys):
    """With a learning rate of 0, training changes nothing: it starts from the checkpoint, and has its shape."""
    out, trained = tmp_path / "out", tmp_path / "trained"
    fixed = ["--user-dir", USER_DIR, "--save-dir", trained, *TINY, *TRAINING, "--task", "translation"]
    run("train", data, "--arch", "transformer", *fixed, "--encoder-normalize-before")
    path = trained / "checkpoint_last.pt"
    options = [data, "--path", path, "--out", out, *DECODING]
    assert quality(*options, "--attention", "1,1000,full") == ["generate", "el"] * 3
    full = (out / "full-as-it-is.txt").read_text("utf-8")
    stock = run("generate", data, "--path", path, *DECODING, *LOSE_NO_SENTENCE, "--user-dir", USER_DIR)
    assert_same_hypotheses(full, stock.stdout, num_sentences=40)

    tuning = ["--finetune", "2", "--train", "--lr 0 --max-tokens 200"]
    assert quality(*options, "--attention", "1", *tuning) == ["train", "generate", "el"], "it does finished runs again"
    as_it_is, fine_tuned = (
        (out / f"attention-1-{stage}.txt").read_text("utf-8") for stage in ("as-it-is", "fine-tuned")
    )
    assert_same_hypotheses(fine_tuned, as_it_is, num_sentences=40)
    assert "Top-k of 1 in 5 attention modules" in (out / "attention-1-fine-tuned.log").read_text("utf-8")

    kept = json.loads((out / "results.json").read_text("utf-8"))["results"]
    table = (out / "table.md").read_text("utf-8")
    assert capsys.readouterr().out.endswith(table)
    rows = {
        cells[0]: cells[1:]
        for cells in ([c.strip() for c in line.split("|")[1:-1]] for line in table.splitlines())
        if cells
    }
    assert rows["k of attention"] == ["as it is: BLEU", "identical to full", "fine-tuned: BLEU", "valid loss"]
    score = f"{kept['attention 1']['as it is']['scores']['BLEU']['value']:.2f}"
    assert rows["1"] == [score, rows["1"][1], score, kept["attention 1"]["fine-tuned"]["valid_loss"][-1][1]]
    assert rows["1000"][1] == "40 of 40" != rows["1"][1]
    assert kept["attention 1"]["fine-tuned"]["valid_loss"][-1][0] == 2

    with pytest.raises(SystemExit, match=r"was made with decoding .* choose another --out"):
        quality(*options, "--beam", "1", "--attention", "2")


def test_a_new_model(quality, data, tmp_path):
    shape = ["--scratch", "2", "--train", " ".join(["--arch transformer --max-tokens 200", *TINY])]
    assert quality(data, "--out", tmp_path, *shape, "--ffn", "4", *DECODING) == ["train", "generate", "el"]
    assert "Top-k of 4 in 3 feed-forward layers" in (tmp_path / "ffn-4-from-scratch.log").read_text("utf-8")
    assert "| from scratch: BLEU | valid loss |" in " ".join((tmp_path / "table.md").read_text("utf-8").split())


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
