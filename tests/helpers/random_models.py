"""Checkpoints with random weights, as ``benchmarks/random_checkpoint.py`` writes them."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest
import torch
from commands import REPOSITORY

SCRIPT = REPOSITORY / "benchmarks" / "random_checkpoint.py"
TINY_DECODER = ["--decoder-layers", "1", "--decoder-embed-dim", "16", "--decoder-ffn-embed-dim", "32"]
TINY_DECODER += ["--decoder-attention-heads", "2"]
TINY_BART = ["--task", "translation", "--arch", "bart_base", "-s", "source", "-t", "target", *TINY_DECODER]
TINY_BART += ["--encoder-layers", "1", "--encoder-embed-dim", "16", "--encoder-ffn-embed-dim", "32"]
TINY_BART += ["--encoder-attention-heads", "2"]
TINY_LM = ["--task", "language_modeling", "--arch", "transformer_lm", *TINY_DECODER]
TINY_LM += ["--decoder-input-dim", "16", "--decoder-output-dim", "16"]


def write_random_model(directory: Path, options: list[str], gain: float = 1.0) -> None:
    """Writes ``directory/model.pt``; its dictionaries must be there.

    Args:
        options: of ``fairseq-train``.
        gain: of the weights: at fairseq's initialisation the output hardly depends on the source.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", [str(SCRIPT), str(directory), *options, "--save-dir", str(directory)])
        runpy.run_path(str(SCRIPT), run_name="__main__")
    state = torch.load(directory / "checkpoint_random.pt")
    for weight in state["model"].values():
        if weight.dim() == 2:
            weight.mul_(gain)
    torch.save(state, directory / "model.pt")
    (directory / "checkpoint_random.pt").unlink()
