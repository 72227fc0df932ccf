"""``fairseq-el convert from-hf`` and ``to-hf``: what users see, and every way in which input can be wrong."""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import sys
from pathlib import Path

import hf_models
import pytest
import torch
from converting import convert, error

import fairseq_el
from fairseq_el.cli import main
from fairseq_el.conversion.hf import verify
from fairseq_el.conversion.hf.reading import _read_pickle

FAMILIES = ["gpt2", "marian", "mbart50"]  # BART is in test_docs_convert.py


class Hostile:
    def __reduce__(self):
        return os.system, ("touch HACKED",)


@pytest.fixture(scope="session")
def saved(tmp_path_factory) -> Path:
    """A directory with a tiny BART model, and what it was converted to."""
    work = tmp_path_factory.mktemp("bart")
    model = hf_models.build("bart", 4)
    hf_models.save(model, "bart", work / "hf", num_beams=2, max_length=12, min_length=3, early_stopping=True)
    assert main(["convert", "from-hf", str(work / "hf"), "--out", str(work / "fairseq")]) == 0
    return work


@pytest.fixture
def work(saved, tmp_path, monkeypatch) -> Path:
    """A copy of it, as the working directory."""
    for name in ("hf", "fairseq"):
        shutil.copytree(saved / name, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_what_is_said_and_written(work, capsys):
    printed = convert(capsys, "from-hf", "hf", "--out", "out", "--verify")
    assert re.search(r"out: BART, fairseq's bart_large, 95 tensors, 47 symbols", printed)
    assert re.search(r"logits differ by at most \S+e-0[6-9] of the largest", printed)
    assert "fairseq-generate DATA --path out/model.pt $(cat out/generate.args) --bpe gpt2" in printed
    assert sorted(path.name for path in work.iterdir()) == ["fairseq", "hf", "out"]
    lines = (work / "out" / "generate.args").read_text().splitlines()
    assert lines[0] in ("--user-dir fairseq_el", f"--user-dir {fairseq_el.__path__[0]}")
    assert lines[1:3] == ["--task translation", "--required-batch-size-multiple 1"]
    assert lines[3:5] == ["--source-lang source", "--target-lang target"]
    assert lines[5:] == [
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


def settings(**changed):
    def change(directory: Path) -> None:
        path = directory / "config.json"
        config = {**json.loads(path.read_text()), **changed}
        path.write_text(json.dumps({name: value for name, value in config.items() if value != "absent"}))

    return change


def tensors(change_state):
    """With the weights as a pickle, changed."""

    def change(directory: Path) -> None:
        from safetensors.torch import load_file

        state = load_file(directory / "model.safetensors")
        (directory / "model.safetensors").unlink()
        torch.save(change_state(state), directory / "pytorch_model.bin")

    return change


def content(name: str, text: str):
    return lambda directory: (directory / name).write_bytes(text.encode("utf-8", "surrogateescape"))


def without(*names: str):
    return lambda directory: [(directory / name).unlink() for name in names]


def cut(name: str):
    def change(directory: Path) -> None:
        whole = (directory / name).read_bytes()
        (directory / name).write_bytes(whole[: len(whole) // 2])

    return change


def both(*changes):
    return lambda directory: [change(directory) for change in changes]


Q_PROJ = "model.encoder.layers.0.self_attn.q_proj.weight"
NO_SAFETENSORS = without("model.safetensors")
BAD = [
    (shutil.rmtree, "DIR must be a directory with a Hugging Face model; there is no directory hf"),
    (without("config.json"), "hf has no config.json. To convert a fairseq checkpoint use to-hf"),
    (content("config.json", "{"), "config.json must be a JSON file; JSONDecodeError"),
    (content("config.json", "[1]"), "config.json must hold a JSON object; it holds a list"),
    (
        settings(model_type="t5"),
        "model_type in .* must be one of 'bart', 'gpt2', 'marian', 'mbart', 'pegasus'; it is 't5'",
    ),
    (settings(model_type="absent"), "model_type in .*; it is None"),
    (
        settings(architectures=["BartForSequenceClassification"]),
        "architectures in .* must have one of BartFor.* it has .'BartForSequenceClassification'., whose head",
    ),
    (settings(d_model="absent"), "d_model must be a number above 0; it is None"),
    (settings(d_model=18), "the width must be a multiple of the heads; 18 is none of the encoder's 4"),
    (settings(eos_token_id=[2, 3]), r"eos_token_id must be one number; it is \[2, 3\]"),
    (settings(eos_token_id=900), "ids of special tokens must be below vocab_size 47; config.json has 900"),
    (settings(decoder_start_token_id=47), "decoder_start_token_id must be one of the model's 47 tokens; it is 47"),
    (settings(quantization_config={"bits": 4}), "quantization_config must be absent"),
    (
        both(NO_SAFETENSORS, content("tf_model.h5", "")),
        "must have its weights in model.safetensors or .*has tf_model.h5",
    ),
    (cut("model.safetensors"), "model.safetensors could not be read: .*It may be incomplete"),
    (content("model.safetensors", ""), "model.safetensors could not be read: "),
    (
        both(NO_SAFETENSORS, content("pytorch_model.bin", "text")),
        "pytorch_model.bin (could not be read|was not loaded)",
    ),
    (both(tensors(dict), cut("pytorch_model.bin")), "pytorch_model.bin could not be read: .*It may be incomplete"),
    (tensors(lambda state: {**state, "x": Hostile()}), "pytorch_model.bin was not loaded: it needs .*system"),
    (tensors(list), "pytorch_model.bin must hold a dictionary of tensors; it holds a list"),
    (tensors(lambda state: {"model": state}), "must hold a dictionary of tensors; it holds values that are no tensors"),
    (
        both(NO_SAFETENSORS, content("model.safetensors.index.json", "{}")),
        "model.safetensors.index.json must have a weight_map",
    ),
    (
        both(NO_SAFETENSORS, content("model.safetensors.index.json", '{"weight_map": {"a": "b.safetensors"}}')),
        "every shard that the index names must lie in hf; missing: b.safetensors",
    ),
    (
        both(NO_SAFETENSORS, content("model.safetensors.index.json", '{"weight_map": {"a": "../hf/config.json"}}')),
        "every shard that the index names must lie in hf; missing: ../hf/config.json",
    ),
    (
        tensors(lambda state: {name: tensor for name, tensor in state.items() if name != Q_PROJ}),
        f"those of a BART model of config.json's sizes: {Q_PROJ} is missing",
    ),
    (tensors(lambda state: {**state, "model.extra": torch.ones(2)}), r"model.extra \(2,\) is unknown"),
    (
        tensors(lambda state: {**state, Q_PROJ: torch.ones(3, 4)}),
        r"q_proj.weight must be \(16, 16\) .*; it is \(3, 4\)",
    ),
    (
        tensors(lambda state: {**state, "lm_head.weight": state["model.shared.weight"] + 1}),
        "lm_head.weight must be the same as model.shared.weight .*; it differs",
    ),
    (without("vocab.json", "merges.txt"), "must have the vocabulary in one of vocab.json, tokenizer.json"),
    (
        content("vocab.json", '{"a": "b"}'),
        "the tokenizer's files in hf must be as save_pretrained writes them; ValueError",
    ),
    (
        content("merges.txt", "a b c\n"),
        "merges of the tokenizer in hf must be pairs of symbols: a merge must be two symbols",
    ),
    (content("merges.txt", "\udcff"), "merges of the tokenizer in hf must be pairs of symbols: .*can't decode"),
    (settings(pad_token_id="<pad>"), "pad_token_id must be one number; it is '<pad>'"),
    (settings(dropout=3), "dropout must be from 0 to 1; it is 3"),
    (content("generation_config.json", '{"num_beams": "4"}'), "generation settings must be numbers; num_beams is '4'"),
    (content("generation_config.json", '{"bad_words_ids": 1}'), "bad_words_ids must be a list of words' ids; it is 1"),
    (
        content("vocab.json", json.dumps({f"w{i}": i for i in range(60)})),
        "must not have more tokens than the model has rows, vocab_size 47; in hf it has 13 more: 'w47'",
    ),
]


@pytest.mark.parametrize(("change", "message"), BAD, ids=[str(i) for i in range(len(BAD))])
def test_bad_models_leave_nothing_behind(change, message, work, capsys):
    change(work / "hf")
    before = sorted(path.name for path in work.iterdir())
    assert re.search(message, error(capsys, "from-hf", "hf", "--out", "out"))
    assert sorted(path.name for path in work.iterdir()) == before


def test_settings_of_any_type_give_a_message(work, capsys):
    """Whatever a setting is, the model is converted or refused, without a traceback."""
    for name in ("config.json", "generation_config.json"):
        whole = json.loads((work / "hf" / name).read_text())
        assert len(whole) > 5
        for key in whole:
            for value in ("x", [1], -1):
                (work / "hf" / name).write_text(json.dumps({**whole, key: value}))
                assert main(["convert", "from-hf", "hf", "--out", "out", "--force"]) in (0, 1), (key, value)
        (work / "hf" / name).write_text(json.dumps(whole))
    capsys.readouterr()


def test_all_unsupported_options_are_named_at_once(work, capsys):
    settings(activation_function="gelu_fast", tie_word_embeddings=False, decoder_layers=0, vocab_size="many")(
        work / "hf"
    )
    said = error(capsys, "from-hf", "hf", "--out", "out")
    for line in (
        "  - activation_function must be one of gelu, gelu_new, .*; it is 'gelu_fast'",
        "  - tie_word_embeddings must be true: one embedding for input and output; it is False",
        "  - decoder_layers must be a number above 0; it is 0",
        "  - vocab_size must be a number above 0; it is 'many'",
        "Such a model can't be converted",
    ):
        assert re.search(line, said)


def test_mbart_needs_its_languages_at_the_end(tmp_path, capsys):
    hf_models.save(hf_models.build("mbart50", 4), "mbart50", tmp_path / "hf")
    tokens = hf_models.vocabulary("mbart50")
    vocab = [[token, 0.0] for token in [*tokens[:-5], *tokens[-5:][::-1]]]
    (tmp_path / "hf" / "tokenizer.json").write_text(json.dumps({"model": {"vocab": vocab}}))
    assert "must end with its languages and <mask>" in error(
        capsys, "from-hf", tmp_path / "hf", "--out", tmp_path / "out"
    )


def test_outputs_are_not_overwritten(work, capsys):
    assert "--out fairseq exists already; choose another name, or add --force" in error(
        capsys, "from-hf", "hf", "--out", "fairseq"
    )
    assert "--out must not be what is converted; both are hf" in error(
        capsys, "from-hf", "hf", "--out", "hf", "--force"
    )
    (work / "mine").mkdir()
    (work / "mine" / "precious").write_text("precious")
    assert "--force replaces only what convert has written" in error(
        capsys, "from-hf", "hf", "--out", "mine", "--force"
    )
    (work / "file").write_text("precious")
    assert "--force replaces only what convert has written" in error(
        capsys, "to-hf", "fairseq", "--out", "file", "--force"
    )
    assert (work / "mine" / "precious").read_text() == (work / "file").read_text() == "precious"
    (work / "fairseq" / "model.pt").write_text("old")
    convert(capsys, "from-hf", "hf", "--out", "fairseq", "--force")
    assert torch.load("fairseq/model.pt")["args"].arch == "bart_large"
    assert sorted(path.name for path in work.iterdir()) == ["fairseq", "file", "hf", "mine"]


def test_a_failure_leaves_the_old_directory(work, capsys, monkeypatch):
    def fail(state, file):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", fail)
    before = (work / "fairseq" / "model.pt").read_bytes()
    with pytest.raises(OSError, match="No space left"):
        main(["convert", "from-hf", "hf", "--out", "fairseq", "--force"])
    assert (work / "fairseq" / "model.pt").read_bytes() == before
    assert sorted(path.name for path in work.iterdir()) == ["fairseq", "hf"]


def test_verify_fails_where_logits_differ(work, capsys, monkeypatch):
    loaded = verify.load_hf

    def other(path, family):
        model = loaded(path, family)
        model.model.decoder.layers[0].fc1.bias.data += 0.1
        return model

    monkeypatch.setattr(verify, "load_hf", other)
    for kind, source in (("from-hf", "hf"), ("to-hf", "fairseq")):
        said = error(capsys, kind, source, "--out", "out", "--verify")
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
    assert re.search(message, error(capsys, *arguments, "--out", "out"))


def test_old_torch_reads_no_pickles(monkeypatch, tmp_path):
    monkeypatch.setattr(torch, "load", lambda f, map_location=None, pickle_module=None, **pickle_load_args: None)
    with pytest.raises(fairseq_el.FairseqElError, match=r"needs torch 1\.13 or later, and torch .* is installed"):
        _read_pickle(tmp_path / "pytorch_model.bin")


def checkpoint(**changed):
    """Changes of the checkpoint's settings and weights."""

    def change(directory: Path) -> None:
        state = torch.load(directory / "model.pt")
        for name, value in changed.items():
            if name == "weights":
                state["model"].update(value)
            else:
                setattr(state["args"], name, value)
        torch.save(state, directory / "model.pt")

    return change


def no_originals(directory: Path) -> None:
    shutil.rmtree(directory / "hf")


BAD_CHECKPOINTS = [
    (shutil.rmtree, "CKPT must be a checkpoint that fairseq wrote; fairseq does not exist"),
    (without("model.pt"), "CKPT must be a checkpoint, or a directory with model.pt; fairseq has no model.pt"),
    (cut("model.pt"), "model.pt could not be read: .*It may be incomplete"),
    (content("model.pt", "text"), "model.pt (could not be read|was not loaded)"),
    (lambda path: torch.save({"model": Hostile()}, path / "model.pt"), "model.pt was not loaded: it needs .*system"),
    (lambda path: torch.save([1], path / "model.pt"), "It holds a list"),
    (checkpoint(arch="lightconv"), r"to-hf needs a model of an architecture bart_\*.*has lightconv"),
    (checkpoint(arch="nonsense"), r"to-hf needs a model of an architecture bart_\*.*has nonsense"),
    (
        both(*(content(f"dict{part}.txt", "one two three\n") for part in ("", ".source", ".target"))),
        "dict.txt must be a dictionary, with a word and its count on each line, no word twice; ValueError",
    ),
    (
        both(no_originals, content("generate.args", "--beam many\n")),
        "generate.args must hold options of fairseq-generate, one on each line; invalid literal for int",
    ),
    (
        both(no_originals, content("vocab.bpe", "a b c\n")),
        "vocab.bpe must be GPT-2's merges, pairs of symbols; a merge must be two symbols",
    ),
    (
        without("dict.txt", "dict.source.txt", "dict.target.txt"),
        "the dictionary must lie beside the checkpoint, or in --data DIR, as one of dict.txt, dict.source.txt",
    ),
    (content("dict.target.txt", "other 1\n"), "one vocabulary for both languages; dict.txt, .* in fairseq differ"),
    (
        lambda path: [(path / name).write_text("w 1\n") for name in ("dict.txt", "dict.source.txt", "dict.target.txt")],
        "its embedding has 47 rows and the dictionary 5 symbols",
    ),
    (
        checkpoint(weights={"decoder.output_projection.weight": torch.ones(47, 16)}),
        "one embedding for input and output: decoder.output_projection.weight is not encoder.embed_tokens.weight",
    ),
    (
        checkpoint(activation_fn="relu_squared", max_source_positions=9, weights={"heads.x": torch.ones(1)}),
        "its activation is relu_squared; --max-source-positions 9 is not --max-target-positions 40; "
        ".*it has heads.x",
    ),
    (
        lambda path: [
            (path / name).write_text((path / name).read_text().replace("262 1", "w 1"))
            for name in ("dict.txt", "dict.source.txt", "dict.target.txt")
        ],
        "must have the symbols of the tokenizer in .*hf, because both came from one model; they differ",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("change", "message"), BAD_CHECKPOINTS, ids=[str(i) for i in range(len(BAD_CHECKPOINTS))])
def test_bad_checkpoints_leave_nothing_behind(change, message, work, capsys):
    change(work / "fairseq")
    before = sorted(path.name for path in work.iterdir())
    assert re.search(message, error(capsys, "to-hf", "fairseq", "--out", "out"))
    assert sorted(path.name for path in work.iterdir()) == before


def test_to_stock_refuses_an_output_bias(tmp_path, capsys):
    state = {
        "args": argparse.Namespace(arch="el_transformer", activation_fn="swish"),
        "model": {"decoder.output_projection.bias": torch.ones(3)},
    }
    torch.save(state, tmp_path / "model.pt")
    said = error(capsys, "to-stock", tmp_path / "model.pt", "--out", tmp_path / "out.pt")
    assert "has a bias of the output projection (--output-bias) and the activation swish" in said
    assert not (tmp_path / "out.pt").exists()


def test_a_checkpoint_without_a_known_tokenizer(work, capsys):
    """Its own dictionary goes along, and comes back."""
    no_originals(work / "fairseq")
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


@pytest.mark.parametrize("family", FAMILIES)
def test_command_lines(family, tmp_path, monkeypatch, execute):
    """fairseq-interactive runs on the directory, with the options that were carried over."""
    monkeypatch.chdir(tmp_path)
    hf_models.save(hf_models.build(family, 4), family, tmp_path / "hf", num_beams=2, max_length=20, early_stopping=True)
    printed = execute("fairseq-el convert from-hf hf --out out")
    bpe = re.search(r"generate\.args\) *(.*)", printed)
    options = bpe.group(1) if bpe else ""
    if family == "mbart50":
        options += " --source-lang en_XX --target-lang ro_RO --lang-pairs en_XX-ro_RO --fixed-dictionary out/dict.txt"
    (tmp_path / "text").write_text(" the the\n" if family == "gpt2" else "▁w1 ▁w2 w3\n", encoding="utf-8")
    printed = execute(f"fairseq-interactive out --path out/model.pt $(cat out/generate.args) {options} < text")
    assert "H-0\t" in printed
    if family == "gpt2":
        assert "D-0" in printed and " the" in printed
