"""``fairseq-el convert from-hf`` and ``to-hf``: every way in which input can be wrong."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import hf_models
import pytest
import torch
from command_lines import failed_convert
from damage import Hostile, all_of, content, cut, without

from fairseq_el.cli import main


def settings(**changed):
    """Of config.json; generation_config.json would go before it."""

    def change(directory: Path) -> None:
        before = directory / "generation_config.json"
        generation = json.loads(before.read_text())
        before.write_text(json.dumps({name: value for name, value in generation.items() if name not in changed}))
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


Q_PROJ = "model.encoder.layers.0.self_attn.q_proj.weight"
NO_SAFETENSORS = without("model.safetensors")
BAD = [
    (shutil.rmtree, "DIR must be a directory with a Hugging Face model; there is no directory hf"),
    (without("config.json"), "hf has no config.json. To convert a fairseq checkpoint use to-hf"),
    (content("config.json", "{"), "config.json must be a JSON file; JSONDecodeError"),
    (content("config.json", "[1]"), "config.json must hold a JSON object; it holds a list"),
    (
        settings(model_type="t5"),
        "model_type in .* must be one of 'bart', 'gpt2', 'm2m_100', 'marian', 'mbart', 'pegasus'; it is 't5'",
    ),
    (settings(model_type="nllb-moe"), "that of a model with dense layers; nllb-moe has mixtures of experts, and fairs"),
    (
        settings(model_type="m2m_100", architectures=["M2M100ForConditionalGeneration"], encoder_layerdrop=2),
        "encoder_layerdrop must be from 0 to 1; it is 2",
    ),
    (settings(model_type="absent"), "model_type in .*; it is None"),
    (
        settings(architectures=["BartForSequenceClassification"]),
        "architectures in .* must have one of BartFor.* it has .'BartForSequenceClassification'., whose head",
    ),
    (settings(d_model="absent"), "d_model must be a number above 0; it is None"),
    (settings(d_model=18), "the width must be a multiple of the heads; 18 is not a multiple of the encoder's 4"),
    (settings(eos_token_id=[2, 3]), r"eos_token_id must be one number; it is \[2, 3\]"),
    (settings(eos_token_id=900), "ids of special tokens must be below vocab_size 47; config.json has 900"),
    (settings(decoder_start_token_id=47), "decoder_start_token_id must be one of the model's 47 tokens; it is 47"),
    (settings(quantization_config={"bits": 4}), "quantization_config must be absent"),
    (
        all_of(NO_SAFETENSORS, content("tf_model.h5", "")),
        "must have its weights in model.safetensors or .*has tf_model.h5",
    ),
    (cut("model.safetensors", 0.5), "model.safetensors could not be read: .*It may be incomplete"),
    (content("model.safetensors", ""), "model.safetensors could not be read: "),
    (
        all_of(NO_SAFETENSORS, content("pytorch_model.bin", "text")),
        "pytorch_model.bin (could not be read|was not loaded)",
    ),
    (
        all_of(tensors(dict), cut("pytorch_model.bin", 0.5)),
        "pytorch_model.bin could not be read: .*It may be incomplete",
    ),
    (tensors(lambda state: {**state, "x": Hostile()}), "pytorch_model.bin was not loaded: it needs .*system"),
    (tensors(list), "pytorch_model.bin must hold a dictionary of tensors; it holds a list"),
    (tensors(lambda state: {"model": state}), "must hold a dictionary of tensors; it holds values that are no tensors"),
    (
        all_of(NO_SAFETENSORS, content("model.safetensors.index.json", "{}")),
        "model.safetensors.index.json must have a weight_map",
    ),
    (
        all_of(NO_SAFETENSORS, content("model.safetensors.index.json", '{"weight_map": {"a": "b.safetensors"}}')),
        "every shard that the index names must lie in hf; missing: b.safetensors",
    ),
    (
        all_of(NO_SAFETENSORS, content("model.safetensors.index.json", '{"weight_map": {"a": "../hf/config.json"}}')),
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
    (content("merges.txt", b"\xff"), "merges of the tokenizer in hf must be pairs of symbols: .*can't decode"),
    (settings(pad_token_id="<pad>"), "pad_token_id must be one number; it is '<pad>'"),
    (settings(dropout=3), "dropout must be from 0 to 1; it is 3"),
    (content("generation_config.json", '{"num_beams": "4"}'), "generation settings must be numbers; num_beams is '4'"),
    (content("generation_config.json", '{"bad_words_ids": 1}'), "bad_words_ids must be a list of words' ids; it is 1"),
    (
        content("vocab.json", json.dumps({f"w{i}": i for i in range(60)})),
        "must not have more tokens than the model has rows, vocab_size 47; in hf it has 13 more: 'w47'",
    ),
]


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
    (cut("model.pt", 0.5), "model.pt could not be read: .*It may be incomplete"),
    (content("model.pt", "text"), "model.pt (could not be read|was not loaded)"),
    (lambda path: torch.save({"model": Hostile()}, path / "model.pt"), "model.pt was not loaded: it needs .*system"),
    (lambda path: torch.save([1], path / "model.pt"), "It holds a list"),
    (checkpoint(arch="lightconv"), r"to-hf needs a model of an architecture bart_\*.*has lightconv"),
    (checkpoint(arch="nonsense"), r"to-hf needs a model of an architecture bart_\*.*has nonsense"),
    (
        all_of(*(content(f"dict{part}.txt", "one two three\n") for part in ("", ".source", ".target"))),
        "dict.txt must be a dictionary, with a word and its count on each line, no word twice; ValueError",
    ),
    (
        all_of(no_originals, content("generate.args", "--beam many\n")),
        "generate.args must hold options of fairseq-generate, one on each line; invalid literal for int",
    ),
    (
        all_of(no_originals, content("vocab.bpe", "a b c\n")),
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


@pytest.mark.parametrize(
    ("kind", "change", "message"),
    [(kind, *case) for kind, cases in (("from-hf", BAD), ("to-hf", BAD_CHECKPOINTS)) for case in cases],
    ids=[f"{kind}-{i}" for kind, cases in (("from-hf", BAD), ("to-hf", BAD_CHECKPOINTS)) for i in range(len(cases))],
)
def test_bad_input_leaves_nothing_behind(kind, change, message, work, capsys):
    source = {"from-hf": "hf", "to-hf": "fairseq"}[kind]
    change(work / source)
    before = sorted(path.name for path in work.iterdir())
    assert re.search(message, failed_convert(capsys, kind, source, "--out", "out"))
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
    said = failed_convert(capsys, "from-hf", "hf", "--out", "out")
    for line in (
        "  - activation_function must be one of gelu, gelu_new, .*; it is 'gelu_fast'",
        "  - tie_word_embeddings must be true: one embedding for input and output; it is False",
        "  - decoder_layers must be a number above 0; it is 0",
        "  - vocab_size must be a number above 0; it is 'many'",
        "Such a model can't be converted",
    ):
        assert re.search(line, said)


def test_mbart_needs_its_languages_and_a_mask(tmp_path, capsys):
    hf_models.save(hf_models.build("mbart50", 4), "mbart50", tmp_path / "hf")
    tokens = hf_models.vocabulary("mbart50")
    vocab = [[token if token != "<mask>" else "other", 0.0] for token in tokens]
    (tmp_path / "hf" / "tokenizer.json").write_text(json.dumps({"model": {"vocab": vocab}}))
    assert "must have its languages and <mask>" in failed_convert(
        capsys, "from-hf", tmp_path / "hf", "--out", tmp_path / "out"
    )
