"""``fairseq-el convert from-hf`` and ``to-hf``: what users see."""

from __future__ import annotations

import argparse
import re
import shutil
import sys
from pathlib import Path

import hf_models
import pytest
import torch
from command_lines import convert, failed_convert

import fairseq_el
from fairseq_el.cli import main
from fairseq_el.conversion.hf import logits


def test_what_is_said_and_written(work, capsys):
    printed = convert(capsys, "from-hf", "hf", "--out", "out", "--verify")
    assert re.search(r"out: BART, fairseq's bart_large, 95 tensors, 47 symbols", printed)
    assert re.search(r"logits differ by at most \S+e-0[6-9] of the largest", printed)
    options = "--path out/model.pt $(cat out/generate.args) --bpe el_pieces --el-pieces out/pieces.json"
    assert printed.splitlines()[2:] == [
        f"fairseq-interactive out {options} < test.txt",
        "fairseq-el encode out < test.txt > test.source",
        "cp test.source test.target",
        "fairseq-preprocess --source-lang source --target-lang target --testpref test --srcdict out/dict.txt --tgtdict "
        "out/dict.txt --destdir DATA",
        f"fairseq-generate DATA {options}",
    ]
    assert sorted(path.name for path in work.iterdir()) == ["fairseq", "hf", "out"]
    lines = (work / "out" / "generate.args").read_text().splitlines()
    assert lines[0] in ("--user-dir fairseq_el", f"--user-dir {fairseq_el.__path__[0]}")
    assert lines[1:3] == ["--task el_translation", "--required-batch-size-multiple 1"]
    assert lines[3:6] == ["--source-lang source", "--target-lang target", "--el-source-template 0,X,2"]
    assert lines[6:] == [
        *("--el-search transformers", "--el-early-stopping true"),
        *("--beam 2", "--lenpen 1.0", "--min-len 2", "--max-len-a 0", "--max-len-b 10", "--no-repeat-ngram-size 0"),
    ]
    printed = convert(capsys, "to-hf", "out", "--out", "back", "--verify")
    assert "transformers.BartForConditionalGeneration.from_pretrained(back)" in printed
    assert (work / "back" / "vocab.json").read_bytes() == (work / "hf" / "vocab.json").read_bytes()


def test_shards(work, capsys):
    model = hf_models.transformers.BartForConditionalGeneration.from_pretrained("hf")
    model.save_pretrained("sharded", max_shard_size="8KB")
    assert len(list(Path("sharded").glob("*.safetensors"))) > 2
    for name in ("vocab.json", "merges.txt"):
        shutil.copy(f"hf/{name}", "sharded")
    convert(capsys, "from-hf", "sharded", "--out", "out")
    mine, whole = (torch.load(f"{name}/model.pt")["model"] for name in ("out", "fairseq"))
    assert all(torch.equal(mine[name], tensor) for name, tensor in whole.items())


def test_outputs_are_not_overwritten(work, capsys):
    assert "--out fairseq exists already; choose another name, or add --force" in failed_convert(
        capsys, "from-hf", "hf", "--out", "fairseq"
    )
    assert "--out must not be what is converted, nor hold it: hf is in hf" in failed_convert(
        capsys, "from-hf", "hf", "--out", "hf", "--force"
    )
    (work / "mine").mkdir()
    (work / "mine" / "precious").write_text("precious")
    assert "--force replaces only what the same command has written" in failed_convert(
        capsys, "from-hf", "hf", "--out", "mine", "--force"
    )
    (work / "file").write_text("precious")
    assert "--out must name a directory; file is a file, which is never replaced" in failed_convert(
        capsys, "to-hf", "fairseq", "--out", "file", "--force"
    )
    assert (work / "mine" / "precious").read_text() == (work / "file").read_text() == "precious"
    model = (work / "fairseq" / "model.pt").read_bytes()
    (work / "fairseq" / "model.pt").write_text("precious")
    assert re.search(
        "--force replaces only what the same command has written: .* were changed since: model.pt. Nothing was "
        "replaced",
        failed_convert(capsys, "from-hf", "hf", "--out", "fairseq", "--force"),
    )
    assert (work / "fairseq" / "model.pt").read_text() == "precious"
    (work / "fairseq" / "model.pt").write_bytes(model)
    (work / "fairseq" / "dict.txt").unlink()
    convert(capsys, "from-hf", "hf", "--out", "fairseq", "--force")
    assert torch.load("fairseq/model.pt")["args"].arch == "bart_large" and (work / "fairseq" / "dict.txt").exists()
    assert sorted(path.name for path in work.iterdir()) == ["fairseq", "file", "hf", "mine"]


def test_a_failure_leaves_the_old_directory(work, capsys, monkeypatch):
    def fail(state, file):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", fail)
    before = (work / "fairseq" / "model.pt").read_bytes()
    assert main(["convert", "from-hf", "hf", "--out", "fairseq", "--force"]) == 1
    assert "No space left on device. Free some space" in capsys.readouterr().err
    assert (work / "fairseq" / "model.pt").read_bytes() == before
    assert sorted(path.name for path in work.iterdir()) == ["fairseq", "hf"]


def test_verify_fails_where_logits_differ(work, capsys, monkeypatch):
    loaded = logits.load_hf

    def other(path, family):
        model = loaded(path, family)
        model.model.decoder.layers[0].fc1.bias.data += 0.1
        return model

    monkeypatch.setattr(logits, "load_hf", other)
    for kind, source in (("from-hf", "hf"), ("to-hf", "fairseq")):
        said = failed_convert(capsys, kind, source, "--out", "out", "--verify")
        assert re.search(r"logits of both programs must agree within 0.0001 of the largest; .* differ by 0\.\d+", said)
    assert sorted(path.name for path in work.iterdir()) == ["fairseq", "hf"]


@pytest.mark.parametrize(
    ("module", "arguments", "message"),
    [
        (
            "transformers",
            ["from-hf", "hf", "--verify"],
            "--verify needs the package transformers: pip install 'fairseq_el",
        ),
        ("safetensors.torch", ["from-hf", "hf"], "model.safetensors needs the package safetensors, which is not"),
        ("safetensors.torch", ["to-hf", "fairseq"], "model.safetensors needs the package safetensors, which is not"),
    ],
)
def test_packages_that_are_not_installed(module, arguments, message, work, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    assert re.search(message, failed_convert(capsys, *arguments, "--out", "out"))


def test_to_stock_refuses_an_output_bias(tmp_path, capsys):
    state = {
        "args": argparse.Namespace(arch="el_transformer", activation_fn="swish"),
        "model": {"decoder.output_projection.bias": torch.ones(3)},
    }
    torch.save(state, tmp_path / "model.pt")
    said = failed_convert(capsys, "to-stock", tmp_path / "model.pt", "--out", tmp_path / "out.pt")
    assert "has a bias of the output projection (--output-bias) and the activation swish" in said
    assert not (tmp_path / "out.pt").exists()


def test_a_checkpoint_without_a_known_tokenizer(work, capsys):
    """Its own dictionary goes along, and comes back."""
    shutil.rmtree(work / "fairseq" / "hf")
    for name in ("encoder.json", "vocab.bpe"):
        (work / "fairseq" / name).unlink()
    assert "note: the tokenizer is not known" in convert(capsys, "to-hf", "fairseq", "--out", "back", "--verify")
    convert(capsys, "from-hf", "back", "--out", "again", "--verify")
    for name in ("dict.txt", "generate.args"):
        assert (work / "again" / name).read_bytes() == (work / "fairseq" / name).read_bytes()
    one, other = (torch.load(f"{name}/model.pt")["model"] for name in ("fairseq", "again"))
    assert all(torch.equal(other[name], tensor) for name, tensor in one.items())


def test_fairseqs_hub(work):
    """BARTModel.from_pretrained, as the README has it: the same logits as transformers, and a summary."""
    from fairseq.models.bart import BARTModel

    bpe = {"gpt2_encoder_json": "fairseq/encoder.json", "gpt2_vocab_bpe": "fairseq/vocab.bpe"}
    bart = BARTModel.from_pretrained("fairseq", checkpoint_file="model.pt", **bpe).eval()
    tokens = bart.encode(" the the")
    assert tokens.tolist() == [0, *[bart.task.source_dictionary.index("262")] * 2, 2]
    theirs = hf_models.transformers.BartForConditionalGeneration.from_pretrained("hf").eval()
    previous = torch.tensor([[2, *tokens.tolist()[:-1]]])
    with torch.no_grad():
        mine = bart.models[0](tokens.unsqueeze(0), torch.tensor([len(tokens)]), previous)[0]
        expected = theirs(input_ids=tokens.unsqueeze(0), decoder_input_ids=previous).logits
    torch.testing.assert_close(mine, expected, rtol=0, atol=1e-4)
    (summary,) = bart.sample([" the the"], beam=2, max_len_b=8)
    assert isinstance(summary, str)
