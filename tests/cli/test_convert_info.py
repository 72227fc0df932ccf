"""``fairseq-el convert info``."""

from __future__ import annotations

import argparse
import json
import re

import pytest
import torch
from commands import EXAMPLE
from tiny import build_model, dictionary, settings

import fairseq_el  # noqa: F401  (makes checkpoints loadable)
from fairseq_el.cli import main
from fairseq_el.units import format_size

MODEL = EXAMPLE / "model.pt"


def info(capsys, *arguments) -> str:
    assert main(["convert", "info", *map(str, arguments)]) == 0
    return capsys.readouterr().out


def described(capsys, *arguments) -> dict:
    return json.loads(info(capsys, *arguments, "--json"))


@pytest.fixture
def save(tmp_path):
    """A random model's checkpoint, as training leaves it, with its dictionary of 24 symbols."""

    def write(arch: str, **options):
        words = dictionary(20)
        words.save(str(tmp_path / "dict.txt"))
        model = build_model(arch, words, 1, torch.float32, **options)
        state = {
            "args": settings(arch, **options),
            "model": model.state_dict(),
            "last_optimizer_state": {"state": {0: {"exp_avg": torch.zeros(100)}, 1: {"exp_avg": torch.zeros(7)}}},
            "optimizer_history": [{"num_updates": 1200}],
            "extra_state": {"ema": {"x": torch.zeros(5, dtype=torch.float16)}},
        }
        torch.save(state, tmp_path / "model.pt")
        return tmp_path / "model.pt", model

    return write


def test_the_bundled_checkpoint(capsys):
    printed = info(capsys, MODEL)
    weights = torch.load(MODEL)["model"]
    layers, width = 3, weights["encoder.embed_tokens.weight"].size(1)
    rows = len(weights["encoder.embed_tokens.weight"])
    assert re.match(
        rf"{re.escape(str(MODEL))}: transformer\S*, task translation; numbers: [\d,]+ in float\d\d\n", printed
    )
    for side in ("encoder", "decoder"):
        assert f"{side}: {layers} layers, width {width}, feed-forward 1,024, 8 heads, {rows:,} symbols" in printed
        assert f"dictionary: {EXAMPLE / 'dict.de.txt'}, {rows:,} symbols" in printed
    assert f"file: {format_size(MODEL.stat().st_size)}; weights " in printed
    assert "EL-attention: supported\n" in printed and "mismatch" not in printed


@pytest.mark.parametrize("arch", ["transformer", "el_bart_base", "transformer_lm"])
def test_bytes_and_numbers_are_those_of_the_tensors(arch, save, capsys):
    """Shared weights are counted once."""
    of_language_models = {"decoder_input_dim": 16, "decoder_output_dim": 16, "share_decoder_input_output_embed": True}
    options = of_language_models if arch == "transformer_lm" else {"share_all_embeddings": True}
    path, model = save(arch, **options)
    found = described(capsys, path)
    assert (found["arch"], found["updates"]) == (arch, 1200)
    second_copies = re.compile(r".*_(weight|bias)")  # of fairseq 0.12.2's encoder
    parameters = {name: each for name, each in model.named_parameters() if not second_copies.fullmatch(name)}
    assert found["numbers"] == {"float32": sum(parameter.numel() for parameter in parameters.values())}
    stored = torch.load(path)["model"].values()
    distinct = {tensor.data_ptr(): tensor.numel() * tensor.element_size() for tensor in stored}
    assert found["bytes"]["weights"] == sum(distinct.values())
    assert found["bytes"]["optimizer"] == 4 * 107 and found["bytes"]["other"] == 10
    assert found["bytes"]["file"] == path.stat().st_size
    assert found["symbols"] == dict.fromkeys(["decoder"] if "lm" in arch else ["encoder", "decoder"], 24)
    assert list(found["dictionaries"].values()) == [24] and found["mismatches"] == []
    assert found["sizes"]["decoder_layers"] == 2 and found["sizes"]["decoder_only"] == (arch == "transformer_lm")
    assert found["el_attention"] == {"supported": True, "reasons": []}


def test_a_dictionary_of_another_model(save, capsys):
    path, _ = save("transformer", task="el_translation")
    (path.parent / "dict.txt").write_text("w 1\n")
    assert f"mismatch: {path.parent / 'dict.txt'} has 5 symbols, and no embedding of the model has" in info(
        capsys, path
    )
    (path.parent / "other").mkdir()
    assert "dictionary: none beside it (name its directory with --data)" in info(
        capsys, path, "--data", path.parent / "other"
    )


def test_symbols_that_the_task_adds(save, capsys):
    path, _ = save("transformer", task="translation_from_pretrained_bart")
    (path.parent / "dict.txt").write_text("w 1\n")
    assert described(capsys, path)["mismatches"] == []
    (path.parent / "dict.txt").write_text("".join(f"w{i} 1\n" for i in range(21)))
    assert len(described(capsys, path)["mismatches"]) == 1


def test_limits_are_those_of_the_supports_own_check(save, capsys):
    path, _ = save("transformer", cross_self_attention=True, no_cross_attention=True)
    printed = info(capsys, path)
    assert "EL-attention: not supported: --cross-self-attention joins encoder outputs to the decoder's own" in printed
    assert "its decoder has no encoder-decoder attention (--no-cross-attention)" in printed


@pytest.mark.parametrize(
    ("arch", "reason"),
    [
        ("nonsense", "the architecture must be one of fairseq's; .* has nonsense"),
        ("lightconv", "fairseq could not build lightconv of .* by its settings"),
    ],
)
def test_models_that_can_not_be_built_are_described_all_the_same(arch, reason, tmp_path, capsys):
    weights = {"decoder.embed_tokens.weight": torch.ones(6, 4)}
    args = argparse.Namespace(arch=arch, decoder_embed_dim=4, decoder_conv_type="nonsense")
    torch.save({"args": args, "model": weights}, tmp_path / "model.pt")
    printed = info(capsys, tmp_path / "model.pt")
    assert f"model.pt: {arch}, task unknown; numbers: 24 in float32" in printed
    assert re.search(f"EL-attention: not known, because {reason}", printed)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere.pt"], "CKPT must be a checkpoint that fairseq wrote; nowhere.pt does not exist"),
        (
            ["model.pt", "--data", "nowhere"],
            "--data must be a directory with dictionaries; there is no directory nowhere",
        ),
        (
            ["model.pt"],
            "dict.txt must be a dictionary, with a word and its count on each line, no word twice; ValueError",
        ),
        (["list.pt"], "It holds a list"),
    ],
)
def test_bad_input(arguments, message, save, capsys, monkeypatch, tmp_path):
    save("transformer")
    (tmp_path / "dict.txt").write_text("one two three\n")
    torch.save([1], tmp_path / "list.pt")
    monkeypatch.chdir(tmp_path)
    assert main(["convert", "info", *arguments]) != 0
    assert re.search(message, capsys.readouterr().err)
