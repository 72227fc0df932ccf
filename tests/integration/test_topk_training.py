"""Top-k attention through fairseq's command lines: training, resuming, decoding and scoring."""

from __future__ import annotations

import json
import re
import shlex

import numpy
import pytest
from commands import (
    EXAMPLE,
    LOSE_NO_SENTENCE,
    REPOSITORY,
    USER_DIR,
    assert_same_hypotheses,
    hypotheses,
    run,
    texts,
)
from test_train import TINY, TRAINING
from tiny import build_model, dictionary

TOPK = ["--topk-attention", "3", "--topk-ffn", "8"]
LM_TRAINING = [
    "--optimizer", "adam", "--lr", "0.01", "--max-tokens", "200", "--max-update", "2", "--num-workers", "0",
    "--seed", "1",
]  # fmt: skip
DECODING = ["--beam", "3", "--max-len-b", "9", "--user-dir", USER_DIR, *LOSE_NO_SENTENCE]


def train(data, save_dir, arch, *options, **kwargs):
    fixed = ["--user-dir", USER_DIR, "--save-dir", save_dir, *TINY, *TRAINING]
    return run("train", data, "--arch", arch, *fixed, *options, **kwargs)


def losses(log):
    """Of the updates, by number."""
    lines = re.findall(r"\{.*\}", log.stdout + log.stderr)
    found = [json.loads(line) for line in lines if '"train_inner"' in line or '"num_updates"' in line]
    return {int(line["num_updates"]): line["loss"] for line in found if "loss" in line and "num_updates" in line}


@pytest.mark.parametrize("arch", ["topk_transformer", pytest.param("topk_bart_base", marks=pytest.mark.long)])
def test_trains_resumes_and_decodes(arch, data, tmp_path):
    """Two updates, two more from their checkpoint: the losses of four at once. Its hypotheses with every task."""
    more = [
        "--max-tokens", "200", "--max-update", "4", "--validate-interval", "9", "--save-interval-updates", "2",
        "--task", "translation",
    ]  # fmt: skip
    whole = losses(train(data, tmp_path / "whole", arch, *TOPK, *more))
    assert {3, 4} <= set(whole)
    start = sorted((tmp_path / "whole").glob("checkpoint_*_2.pt"))[0]
    resumed = losses(train(data, tmp_path / "resumed", arch, *TOPK, *more, "--restore-file", start))
    assert {number: whole[number] for number in resumed} == resumed and 4 in resumed and 2 not in resumed

    path = ["--path", tmp_path / "whole" / "checkpoint_last.pt"]
    stock = run("generate", data, *path, *DECODING, "--task", "translation")
    el = run("generate", data, *path, *DECODING, "--task", "el_translation", "--el-self-attention", "el")
    assert "Top-k of 3 in 5 attention modules" in stock.stderr and "Top-k of 8 in 3 feed-forward" in stock.stderr
    assert_same_hypotheses(el.stdout, stock.stdout, num_sentences=40)


def test_a_checkpoint_of_stock_fairseq(data, tmp_path):
    """As it is with k as large as what there is, another with k = 1; the task of the command line says."""
    options = [data, "--path", EXAMPLE / "model.pt", *DECODING]
    stock = run("generate", *options, "--task", "translation")
    same = run("generate", *options, "--task", "el_translation", "--topk-attention", "1000", "--topk-ffn", "4096")
    assert_same_hypotheses(same.stdout, stock.stdout, num_sentences=40)
    few = run("generate", *options, "--task", "el_translation", "--topk-attention", "1", "--topk-attention-in", "cross")
    assert "Top-k of 1 in 3 attention modules" in few.stderr
    assert {i: h[0][0] for i, h in hypotheses(few.stdout).items()} != {
        i: h[0][0] for i, h in hypotheses(stock.stdout).items()
    }
    error = run("generate", *options, "--task", "el_translation", "--topk-attention", "0", fails=True).stderr
    assert "--topk-attention must be a whole number, at least 1; it is 0" in error.splitlines()[-1]


@pytest.mark.skipif(
    int(numpy.__version__.split(".")[0]) >= 2, reason="fairseq's data sets of language models use what numpy 2 removed"
)
def test_language_models(data, tmp_path):
    """Trained with k, scored by fairseq-eval-lm with another."""
    lm = ["--task", "el_language_modeling", "--criterion", "cross_entropy", "--tokens-per-sample", "20"]
    fixed = ["--user-dir", USER_DIR, "--save-dir", tmp_path, *LM_TRAINING, *lm]
    small = ["--decoder-layers", "1", "--decoder-embed-dim", "16", "--decoder-ffn-embed-dim", "32"]
    monolingual = tmp_path / "data-bin"
    text = tmp_path / "text"
    text.write_text("a man in a red hat\ntwo dogs run\n" * 20)
    splits = ["--trainpref", text, "--validpref", text, "--testpref", text]
    run("preprocess", "--only-source", *splits, "--destdir", monolingual)
    run("train", monolingual, "--arch", "topk_transformer_lm", "--topk-attention", "2", *small, *fixed)
    evaluate = [monolingual, "--path", tmp_path / "checkpoint_last.pt", "--user-dir", USER_DIR]
    scores = {}
    for k in (None, "2", "1"):
        options = [] if k is None else ["--topk-attention", k]
        log = run("eval-lm", *evaluate, "--task", "el_language_modeling", "--tokens-per-sample", "20", *options)
        scores[k] = re.findall(r"Loss \(base 2\): ([\d.]+)", log.stderr + log.stdout)
    assert scores[None] == scores["2"] != [] and scores["1"] != scores["2"]


@pytest.mark.long
def test_the_commands_of_the_documentation(data, tmp_path):
    """With the bundled model, and training a tiny one."""
    text = (REPOSITORY / "docs" / "topk.md").read_text(encoding="utf-8").replace("\\\n", " ")
    generate, train_one, generate_again = re.findall("^fairseq-.*$", text, re.M)
    replaced = {"DATA": data, "model.pt": EXAMPLE / "model.pt", "fairseq_el": USER_DIR}
    for command, more in (
        (generate, []),
        (train_one, [*TINY, "--num-workers", "0", "--task", "translation"]),
        (generate_again, ["--max-len-b", "5"]),
    ):
        name, *arguments = shlex.split(command)
        done = run(name[len("fairseq-") :], *(replaced.get(word, word) for word in arguments), *more, cwd=tmp_path)
        assert "Top-k of 16 in" in done.stderr + done.stdout
    assert len(texts(done.stdout, "D")) == 40
    (python,) = re.findall(r"```python\n(.*?)```", text, re.S)
    exec(python, {"model": build_model("transformer", dictionary(), seed=1)})
