"""``fairseq-el convert`` on the bundled checkpoint."""

from __future__ import annotations

import argparse
import re
import shutil

import pytest
import torch
from command_lines import convert, failed_convert
from commands import EXAMPLE
from damage import Hostile

import fairseq_el  # noqa: F401  (makes checkpoints loadable)
from fairseq_el._compat import torch_version
from fairseq_el.cli import main

MODEL = EXAMPLE / "model.pt"


def same(one, two) -> bool:
    if isinstance(one, torch.Tensor):
        return one.dtype == two.dtype and torch.equal(one, two)
    if isinstance(one, dict):
        return list(one) == list(two) and all(same(one[key], two[key]) for key in one)
    if isinstance(one, argparse.Namespace):
        return same(vars(one), vars(two))
    return type(one) is type(two) and one == two


def test_there_and_back(tmp_path, capsys):
    el, stock = tmp_path / "el.pt", tmp_path / "stock.pt"
    assert "el_transformer" in convert(capsys, "to-el", MODEL, "--out", el)
    original = torch.load(MODEL)
    relabelled = torch.load(el)
    assert relabelled["cfg"]["model"].arch == "el_" + original["cfg"]["model"].arch
    assert same(relabelled["model"], original["model"]) and not same(relabelled, original)
    convert(capsys, "to-stock", el, "--out", stock)
    assert same(torch.load(stock), original)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["el.pt", "stock.pt"]


def test_half_the_size(tmp_path, capsys):
    printed = convert(capsys, "strip", MODEL, "--fp16", "--out", tmp_path / "half.pt")
    before, after = (path.stat().st_size for path in (MODEL, tmp_path / "half.pt"))
    assert "MiB (was " in printed
    assert after < 0.6 * before or torch.load(MODEL)["model"]["encoder.layers.0.fc1.weight"].dtype == torch.float16


def test_mean_of_two(tmp_path, capsys):
    state = torch.load(MODEL)
    name = "decoder.layers.0.fc1.weight"
    state["model"][name] = state["model"][name] + 2
    torch.save(state, tmp_path / "other.pt")
    convert(capsys, "strip", MODEL, tmp_path / "other.pt", "--average", "--out", tmp_path / "mean.pt")
    mean, original = torch.load(tmp_path / "mean.pt")["model"], torch.load(MODEL)["model"]
    torch.testing.assert_close(mean[name].float(), original[name].float() + 1, rtol=1e-3, atol=1e-3)
    assert torch.equal(mean["encoder.layers.0.fc1.weight"], original["encoder.layers.0.fc1.weight"])


def damaged(tmp_path):
    """Files that are no checkpoints, by name."""
    whole = MODEL.read_bytes()
    (tmp_path / "truncated.pt").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "empty.pt").write_bytes(b"")
    (tmp_path / "text.pt").write_text("not a checkpoint\n")
    (tmp_path / "flipped.pt").write_bytes(whole[:5000] + bytes([whole[5000] ^ 255]) + whole[5001:])
    torch.save({"model": Hostile()}, tmp_path / "hostile.pt")
    torch.save([1, 2], tmp_path / "list.pt")
    torch.save({"weight": torch.ones(1)}, tmp_path / "weights.pt")
    torch.save({"model": {}, "cfg": {"model": {}}}, tmp_path / "nothing.pt")
    torch.save({"model": {"a": 1}, "args": argparse.Namespace(arch="transformer")}, tmp_path / "numbers.pt")
    torch.save({"model": {"a": torch.ones(1)}}, tmp_path / "unnamed.pt")
    torch.save({"model": {"a": torch.ones(1)}, "cfg": {"model": {"x": 1}}}, tmp_path / "archless.pt")
    torch.save({"model": {"a": torch.ones(1)}, "args": argparse.Namespace(arch="lightconv")}, tmp_path / "lightconv.pt")
    shutil.copy(MODEL, tmp_path / "good.pt")


NEEDS_WEIGHTS_ONLY = pytest.mark.skipif(
    torch_version() < (2, 6),
    reason="torch.load refuses nothing by default before 2.6",
)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["to-el", "nowhere.pt"], "CKPT must be a checkpoint that fairseq wrote; .*nowhere.pt does not exist"),
        (["to-el", "."], "CKPT must be a checkpoint that fairseq wrote; .* is a directory"),
        (["to-el", "truncated.pt"], "truncated.pt could not be read: .*It may be incomplete"),
        (["to-el", "empty.pt"], "empty.pt could not be read: "),
        (["to-el", "text.pt"], "text.pt could not be read: |text.pt was not loaded"),
        pytest.param(["to-el", "hostile.pt"], "hostile.pt was not loaded: it needs .*system", marks=NEEDS_WEIGHTS_ONLY),
        (["to-el", "list.pt"], "It holds a list"),
        (
            ["to-el", "weights.pt"],
            'It has no "model" but \'weight\'; It has no "cfg" and no "args".*fairseq-train wrote',
        ),
        (["to-el", "nothing.pt"], 'Its "model" is empty'),
        (["to-el", "numbers.pt"], 'Its "model" is a dict, not a dictionary of tensors'),
        (["to-el", "unnamed.pt"], 'It has no "cfg" and no "args"'),
        (["to-el", "archless.pt"], "must say its architecture in cfg.model or args; it has none"),
        (["to-el", "lightconv.pt"], "to-el needs one of fairseq's architectures .* has lightconv"),
        (["to-stock", "good.pt"], "to-stock needs an architecture el_.*which is fairseq's own already"),
        (["strip", "good.pt", "good.pt"], "strip takes one checkpoint, or several with --average or --merge; got 2"),
        (["strip", "good.pt", "good.pt", "--merge"], r"names end in -shard0\.pt, .*; got good.pt, good.pt"),
        (["strip", "good.pt", "--merge", "--average"], "not allowed with argument"),
        (["strip", "good.pt", "--fp16", "--bf16"], "not allowed with argument"),
        (["strip", "good.pt", "lightconv.pt", "--average"], "has architecture .*, not lightconv"),
        (["polish", "good.pt"], "invalid choice: 'polish'"),
    ],
)
def test_bad_input_leaves_nothing_behind(arguments, message, tmp_path, capsys, monkeypatch):
    damaged(tmp_path)
    monkeypatch.chdir(tmp_path)
    before = sorted(path.name for path in tmp_path.iterdir())
    assert re.search(message, failed_convert(capsys, *arguments, "--out", tmp_path / "out.pt"))
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_outputs_are_not_overwritten(tmp_path, capsys):
    out = tmp_path / "out.pt"
    out.write_text("precious")
    assert f"--out {out} exists already; choose another name, or add --force" in failed_convert(
        capsys, "to-el", MODEL, "--out", out
    )
    assert out.read_text() == "precious"
    assert f"--out must name a file; {tmp_path} is a directory" in failed_convert(
        capsys, "to-el", MODEL, "--out", tmp_path
    )
    convert(capsys, "to-el", MODEL, "--out", out, "--force")
    assert torch.load(out)["cfg"]["model"].arch.startswith("el_")


def test_a_write_that_fails_leaves_the_old_file(tmp_path, capsys, monkeypatch):
    out = tmp_path / "out.pt"
    out.write_text("precious")

    def fail(state, file):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", fail)
    assert main(["convert", "to-el", str(MODEL), "--out", str(out), "--force"]) == 1
    assert "No space left on device. Free some space" in capsys.readouterr().err
    assert out.read_text() == "precious" and [path.name for path in tmp_path.iterdir()] == ["out.pt"]
