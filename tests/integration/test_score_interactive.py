"""``fairseq-el score`` reads what ``fairseq-interactive`` itself printed: a model of random bytes writes line ends."""

from __future__ import annotations

import json

import pytest
from commands import USER_DIR, run
from fairseq.data.encoders.gpt2_bpe import GPT2BPE, GPT2BPEConfig
from fairseq.data.encoders.gpt2_bpe_utils import bytes_to_unicode
from random_models import TINY_BART, write_random_model

from fairseq_el.cli import main
from fairseq_el.scoring import read_hypotheses

SENTENCES = 12


@pytest.fixture
def work(tmp_path):
    """A model of 256 pieces, the bytes, which GPT-2's BPE joins without merges."""
    for language in ("source", "target"):
        (tmp_path / f"dict.{language}.txt").write_text("".join(f"{piece} 1\n" for piece in range(256)))
    (tmp_path / "encoder.json").write_text(json.dumps({c: i for i, c in enumerate(bytes_to_unicode().values())}))
    (tmp_path / "vocab.bpe").write_text("#version: 0.2\n")
    write_random_model(tmp_path, TINY_BART)
    return tmp_path


def test_random_bytes_are_read_whole(work, capsys):
    bpe = {"gpt2_encoder_json": str(work / "encoder.json"), "gpt2_vocab_bpe": str(work / "vocab.bpe")}
    options = [f"--{name.replace('_', '-')}={value}" for name, value in bpe.items()]
    options += ["--bpe", "gpt2", "--sampling", "--beam", "2", "--nbest", "2", "--seed", "1", "--min-len", "150"]
    options += ["--user-dir", USER_DIR, "--task", "el_translation", "-s", "source", "-t", "target"]
    stdin = "".join(f"text {number}\n" for number in range(SENTENCES))
    printed = run("interactive", work, "--path", work / "model.pt", *options, stdin=stdin).stdout
    tokens = read_hypotheses(printed.split("\n"))
    decode = GPT2BPE(GPT2BPEConfig(**bpe)).decode
    expected = [decode(tokens[number][0].tokens) for number in range(SENTENCES)]
    assert sum("\n" in text for text in expected) > 2 and sum("\r" in text for text in expected) > 2
    (work / "output.txt").write_bytes(printed.encode())
    assert main(["score", str(work / "output.txt"), "--extract", "hypo", str(work / "hypo")]) == 0
    assert (work / "hypo").read_bytes().decode() == "".join(
        text.replace("\r\n", " ").replace("\r", " ").replace("\n", " ") + "\n" for text in expected
    )
    arguments = ["score", str(work / "output.txt"), "--ref", str(work / "hypo"), "--metrics", "bleu,chrf", "--json"]
    capsys.readouterr()
    assert main(arguments) == 0
    scores = json.loads(capsys.readouterr().out)["scores"]
    assert [score["value"] for score in scores.values()] == [pytest.approx(100)] * 2
