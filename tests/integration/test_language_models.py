"""``--task el_language_modeling`` with models that ``scripts/train_language_model.sh`` trained, against stock."""

from __future__ import annotations

import numpy
import pytest
from commands import LOSE_NO_SENTENCE, USER_DIR, assert_same_hypotheses, run, texts, train_language_model

pytestmark = pytest.mark.skipif(
    int(numpy.__version__.split(".")[0]) >= 2, reason="fairseq's data sets of language models use what numpy 2 removed"
)

STOCK = ["--user-dir", USER_DIR, "--task", "language_modeling", *LOSE_NO_SENTENCE]
EL = ["--user-dir", USER_DIR, "--task", "el_language_modeling"]


@pytest.fixture(scope="module")
def captions(language_model) -> list:
    """The tiny model of the bundled captions, and their first 40 as prompts."""
    return [language_model / "data-bin", "--path", language_model / "checkpoint_last.pt", "--sample-break-mode", "eos"]


@pytest.fixture(scope="module")
def penn_treebank(shared, tmp_path_factory) -> list:
    """A real model of real text, though not a good one: 60 updates."""
    work, texts = tmp_path_factory.mktemp("ptb"), shared / "data" / "ptb"
    lines = (texts / "ptb.test.txt").read_text(encoding="utf-8").splitlines()
    (work / "some.txt").write_text("\n".join(lines[:150]) + "\n", encoding="utf-8")
    train_language_model(work, texts / "ptb.valid.txt", work / "some.txt", "--max-update", "60")
    return [work / "data-bin", "--path", work / "checkpoint_last.pt", "--sample-break-mode", "eos"]


OPTIONS = {
    "the first words as prompts": ["--prefix-size", "4", "--beam", "4", "--max-len-b", "20"],
    "whole sentences as prompts": ["--beam", "5", "--nbest", "5", "--max-len-b", "40", "--batch-size", "16"],
    "greedy, in small parts": ["--prefix-size", "3", "--beam", "1", "--max-len-b", "15"],
    "sampling": [
        "--prefix-size",
        "3",
        "--beam",
        "3",
        "--nbest",
        "3",
        "--sampling",
        "--sampling-topk",
        "5",
        "--max-len-b",
        "15",
        "--seed",
        "4",
    ],
    "diverse": ["--prefix-size", "2", "--diverse-beam-groups", "2", "--beam", "4", "--max-len-b", "12"],
}
EL_OPTIONS = {"greedy, in small parts": ["--el-encoder-tokens", "50", "--el-self-attention", "el"]}


@pytest.mark.parametrize("name", OPTIONS)
def test_continues_as_stock(captions, name):
    stock = run("generate", *captions, *OPTIONS[name], *STOCK)
    el = run("generate", *captions, *OPTIONS[name], *EL, *EL_OPTIONS.get(name, []))
    assert "EL-attention enabled in 0 cross-attention modules (el) and 2 self-attention modules" in el.stderr
    assert_same_hypotheses(el.stdout, stock.stdout, num_sentences=40)


def test_interactive(captions):
    stdin = "a man in a\na\n\ntwo dogs\na woman is\n"
    options = [*captions, "--beam", "3", "--max-len-b", "12", "--buffer-size", "5", "--batch-size", "3"]
    stock, el = (run("interactive", *options, *method, stdin=stdin) for method in (STOCK, EL))
    assert_same_hypotheses(el.stdout, stock.stdout, num_sentences=5)
    assert all(text.startswith("a man in a") for index, text in texts(el.stdout, "D") if index.endswith("-0"))


@pytest.mark.real
@pytest.mark.parametrize("self_attention", ["el", "kv"])
def test_a_real_model_continues_real_text(penn_treebank, self_attention):
    """150 sentences of the Penn Treebank, their first five words given, token for token as stock."""
    options = [*penn_treebank, "--prefix-size", "5", "--beam", "4", "--max-len-b", "30", "--batch-size", "64"]
    stock = run("generate", *options, *STOCK)
    el = run("generate", *options, *EL, "--el-self-attention", self_attention)
    assert_same_hypotheses(el.stdout, stock.stdout, num_sentences=150)
