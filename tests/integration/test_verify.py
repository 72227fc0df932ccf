"""``fairseq-el verify`` on the bundled model."""

from __future__ import annotations

import json
import re

import pytest
import torch
from commands import EXAMPLE, run

import fairseq_el  # noqa: F401  (makes checkpoints loadable)

MODEL = EXAMPLE / "model.pt"
SHORT = ["--max-len-b", "6", "--beam", "3"]


def test_el_attention_writes_what_stock_writes(data):
    printed = run("el", "verify", data, "--path", MODEL, *SHORT, "--nbest", "2").stdout
    assert printed.startswith(
        "All hypotheses of 40 sentences are the same in stock and EL. Scores of the same words differ by"
    )


def test_another_checkpoint_does_not(data, tmp_path):
    state = torch.load(MODEL)
    state["model"]["decoder.layers.0.fc1.weight"] = -state["model"]["decoder.layers.0.fc1.weight"]
    torch.save(state, tmp_path / "other.pt")
    process = run("el", "verify", data, "--path", MODEL, "--path", tmp_path / "other.pt", *SHORT, "--json", fails=True)
    result = json.loads(process.stdout)
    assert result["compared"] == [str(MODEL), str(tmp_path / "other.pt")]
    assert not result["same"] and result["sentences"] == 40
    assert 0 < len(result["differing"]) <= 40 and len(result["first"]) == 2
    assert process.returncode == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--path", "nowhere.pt"], "--path must be a checkpoint that fairseq wrote; nowhere.pt does not exist"),
        (["--path", MODEL, "--task", "denoising"], "--task must be one of language_modeling, .*; got denoising"),
        (["--path", MODEL, "--path", MODEL], "--path must name two different checkpoints"),
        (["--path", MODEL, "--path", MODEL, "--path", MODEL], "--path can be given once or twice; got 3"),
        (["--path", MODEL, "--no-such-option"], "unrecognized arguments: --no-such-option"),
        (["--path", MODEL, "--num-shards=2", "--shard-id", "1"], "no shards; leave out --num-shards and --shard-id"),
        (["--path", MODEL, "--quiet"], "wrote no hypotheses: was it given --quiet"),
    ],
)
def test_bad_input(data, options, message, tmp_path):
    stderr = run("el", "verify", data, *options, cwd=tmp_path, fails=True).stderr
    assert re.search(message, stderr) and "Traceback" not in stderr.split("its log ends with")[0]
