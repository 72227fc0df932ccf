"""``--task el_speech_to_text`` against ``speech_to_text``, with models that fairseq-train has trained."""

from __future__ import annotations

import logging
import re
import shutil
from pathlib import Path

import fairseq as fairseq_package
import numpy as np
import pytest
import torch
from commands import LOSE_NO_SENTENCE, USER_DIR, assert_same_hypotheses, run, texts
from tiny_data import fairseq, save_checkpoint, write_pairs
from tiny_speech import ARCHITECTURES, WIDTH, train, write_speech

from fairseq_el.cli import main
from fairseq_el.conversion import load_checkpoint
from fairseq_el.errors import FairseqElError

SENTENCES = 14
STOCK = ["--task", "speech_to_text", *LOSE_NO_SENTENCE]
EL = ["--task", "el_speech_to_text"]

OPTIONS = {
    "beam": [],
    "small batches": ["--batch-size", "4", "--beam", "3", "--el-self-attention", "el"],
    "n-best": ["--beam", "4", "--nbest", "4", "--lenpen", "0.4", "--el-backend", "shared-kv"],
    "greedy": ["--beam", "1", "--max-len-a", "0.2", "--max-len-b", "3", "--el-backend", "auto"],
    "sampling": ["--sampling", "--sampling-topk", "6", "--beam", "3", "--nbest", "3", "--seed", "5"],
    "another seed": ["--sampling", "--sampling-topp", "0.8", "--beam", "2", "--nbest", "2", "--seed", "6"],
    "diverse": ["--beam", "4", "--diverse-beam-groups", "2", "--nbest", "2"],
    "prefix": ["--prefix-size", "2", "--min-len", "4", "--unkpen", "1", "--el-encoder-tokens", "40"],
    "unnormalized": ["--unnormalized", "--temperature", "1.3", "--max-tokens", "90"],
    "references": ["--score-reference"],
}


@pytest.fixture(scope="module", autouse=True)
def quiet():
    """Nothing is logged: fairseq configures the root logger in this process."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


@pytest.fixture(scope="module")
def work(tmp_path_factory) -> Path:
    work = tmp_path_factory.mktemp("speech")
    write_speech(work / "data", {"train": 60, "test": SENTENCES, "valid": 2}, zipped=True)
    return work


@pytest.fixture(
    scope="module",
    params=[ARCHITECTURES[0], *(pytest.param(arch, marks=pytest.mark.long) for arch in ARCHITECTURES[1:])],
)
def model(request, work) -> Path:
    if request.param == "convtransformer" and fairseq_package.__version__ == "0.12.2":
        pytest.skip("fairseq 0.12.2's fused layers fail in the encoder of a convtransformer that was loaded")
    return train(work / "data", request.param, work / request.param, updates=40)


@pytest.fixture(scope="module")
def one(work) -> Path:
    """A checkpoint for what does not depend on the architecture."""
    return train(work / "data", ARCHITECTURES[0], work / "one", updates=1)


def without_el(options):
    """The options that stock has."""
    pairs = zip(["", *options], options)
    return [word for before, word in pairs if not (word.startswith("--el-") or before.startswith("--el-"))]


@pytest.mark.parametrize("name", OPTIONS)
def test_same_as_stock(model, work, name):
    given = [work / "data", "--path", model]
    stock = fairseq("generate", *given, *STOCK, *without_el(OPTIONS[name]), plugin=False)
    el = fairseq("generate", *given, *EL, *OPTIONS[name])
    assert_same_hypotheses(el, stock, SENTENCES)
    assert texts(el, "D") == texts(stock, "D")
    assert len(set(texts(stock, "H"))) > SENTENCES // 2


def test_language_tags_and_files_of_features(tmp_path):
    data = write_speech(tmp_path / "data", {"train": 24, "test": 6, "valid": 2}, tags=True)
    model = train(data, "s2t_transformer", tmp_path / "model", 20, "--ignore-prefix-size", 1)
    given = [data, "--path", model, "--prefix-size", 1, "--beam", 3]
    stock = fairseq("generate", *given, *STOCK, plugin=False)
    el = fairseq("generate", *given, *EL)
    assert_same_hypotheses(el, stock, 6)
    assert texts(el, "D") == texts(stock, "D") and "<lang:" not in el  # tags are left out
    message = failure(data, model, "--beam", 3)
    assert "--prefix-size must be 1, because prepend_tgt_lang_tag of --config-yaml has outputs begin" in message


def test_as_a_program(work, one):
    """In processes of their own, with the loader's worker process."""
    given = [work / "data", "--path", one, "--config-yaml", "config.yaml", "--cpu"]
    stock = run("generate", *given, *STOCK, "--user-dir", USER_DIR)
    el = run("generate", *given, *EL, "--user-dir", USER_DIR)
    assert "EL-attention enabled in 2 cross-attention modules (el)" in el.stderr
    assert_same_hypotheses(el.stdout, stock.stdout, SENTENCES)


def test_interactive_reads_paths_of_features(work, one):
    lines = [line.split("\t")[1] for line in (work / "data" / "test.tsv").read_text().splitlines()[1:4]]
    stdin = "".join(f"{line}\n" for line in lines)
    given = [work / "data", "--path", one, "--beam", 3]
    el = fairseq("interactive", *given, *EL, stdin=stdin)
    stock = fairseq("interactive", *given, *STOCK, stdin=stdin, plugin=False)
    assert_same_hypotheses(el, stock, 3)
    with pytest.raises(FairseqElError, match=r"Lines must be paths of features, .*; nowhere\.npy can't be read"):
        fairseq("interactive", *given, *EL, stdin="nowhere.npy\n")


def test_an_ensemble(work, one, model):
    given = [work / "data", "--path", f"{one}:{model}", "--beam", 3]
    stock = fairseq("generate", *given, *STOCK, plugin=False)
    assert_same_hypotheses(fairseq("generate", *given, *EL), stock, SENTENCES)


@pytest.mark.long
def test_verify(work, one, capsys):
    assert main(["verify", str(work / "data"), "--path", str(one), "--cpu", "--beam", "3"]) == 0
    assert f"All hypotheses of {SENTENCES} sentences are the same" in capsys.readouterr().out


def failure(data, model, *options, task="el_speech_to_text", subset="test"):
    """What is said, in one line."""
    with pytest.raises(FairseqElError) as error:
        fairseq("generate", data, "--path", model, "--task", task, "--gen-subset", subset, *options)
    said = str(error.value)
    assert "\n" not in said
    return said


@pytest.fixture
def data(work, tmp_path) -> Path:
    """DATA to change."""
    return Path(shutil.copytree(work / "data", tmp_path / "data"))


CONFIGS = {
    "vocab_filename: none.txt": "config.yaml: vocab_filename must name a file in DATA; there is no file",
    "vocab_filename: config.yaml": "vocab_filename must name a dictionary of fairseq's; .*config.yaml is none",
    "vocab_filename: 7": "vocab_filename must be the name of a file; it is 7",
    "[1, 2]": "--config-yaml must have settings, as vocab_filename: dict.txt; .*config.yaml is list",
    "": "config.yaml is empty",
    "a: [": "--config-yaml must be a YAML file; .*config.yaml can't be read: ",
    "input_feat_per_channel: eighty": "input_feat_per_channel must be a number above 0; it is 'eighty'",
    "input_feat_per_channel:": "input_feat_per_channel must be a number above 0; it is None",
    f"input_feat_per_channel: {WIDTH + 1}": "must have the features that the model was trained with; .* is 9 and",
    f"input_feat_per_channel: {WIDTH}\nuse_audio_input: true": "use_audio_input must be false, because",
    f"input_feat_per_channel: {WIDTH}\nbpe_tokenizer: {{bpe: sentencepiece, sentencepiece_model: no}}": (
        "bpe_tokenizer of --config-yaml must be one that fairseq can set up; it is .*sentencepiece"
    ),
    f"input_feat_per_channel: {WIDTH}\nspeaker_set_filename: no.txt": "speaker_set_filename must name a file in DATA",
    "prepend_tgt_lang_tag: true\nprepend_bos_and_append_tgt_lang_tag: true": "do not go together; both are true",
    f"input_feat_per_channel: {WIDTH}\nprepend_bos_and_append_tgt_lang_tag: true": "--eos-token must name the language",
}


@pytest.mark.parametrize("text", CONFIGS)
def test_settings_that_are_wrong(data, one, text):
    (data / "config.yaml").write_text(text)
    assert re.search(CONFIGS[text], failure(data, one))


def test_files_that_are_not_there(data, one):
    assert "--config-yaml must name a YAML file in DATA" in failure(data, one, "--config-yaml", "none.yaml")
    (data / "config.yaml").unlink()
    assert f"there is no file {data / 'config.yaml'}" in failure(data, one)
    assert "DATA must be a directory with a YAML file" in failure(data / "nowhere", one)


def test_another_split(data, one):
    message = failure(data, one, subset="dev")
    assert (
        message
        == f"--gen-subset must name one split of the data, SPLIT.tsv; it is dev, and {data} has test, train, valid"
    )


MANIFESTS = {
    "": "must have a line for each sentence",
    "id\taudio\tn_frames\ttgt_text\n": "must have a line for each sentence under the names of its columns",
    "id\taudio\nx\ty\n": "must have the columns id, audio, n_frames, tgt_text, with tabs in between; it lacks n_frames",
    "id\taudio\tn_frames\ttgt_text\na\tb\n": "every line must have all columns; line 2 has no n_frames, tgt_text",
    "id\taudio\tn_frames\ttgt_text\na\tb\tmany\tw1\n": "n_frames must be a number above 0; in line 2 it is 'many'",
}


@pytest.mark.parametrize("text", MANIFESTS)
def test_manifests_that_are_wrong(data, one, text):
    (data / "test.tsv").write_text(text)
    assert MANIFESTS[text] in failure(data, one)


def test_all_problems_of_a_manifest_are_named(data, one):
    (data / "test.tsv").write_text("id\taudio\tn_frames\ttgt_text\na\tb\t0\tw1\nc\td\n")
    with pytest.raises(FairseqElError) as error:
        fairseq("generate", data, "--path", one, *EL)
    headline, *problems = str(error.value).splitlines()
    assert headline == f"The manifest {data / 'test.tsv'} can't be used:" and len(problems) == 2
    assert "in line 2 it is '0'" in problems[0] and "line 3 has no n_frames, tgt_text" in problems[1]


def test_features_that_are_not_there_or_of_another_width(data, one):
    line = "id\taudio\tn_frames\ttgt_text\nx\t{}\t5\tw1\n"
    (data / "test.tsv").write_text(line.format("nowhere.npy"))
    assert "The features of sentence 0 (nowhere.npy) can't be read: FileNotFoundError" in failure(data, one)
    path = data / "wide.npy"
    np.save(path, np.zeros((5, WIDTH + 2), dtype=np.float32))
    (data / "test.tsv").write_text(line.format(path))
    message = failure(data, one)
    assert f"Features must have frames of {WIDTH} numbers" in message
    assert f"those of sentence 0 ({path}) are 5 x {WIDTH + 2}" in message
    process = run("generate", data, "--path", one, *EL, "--user-dir", USER_DIR, fails=True)
    assert "Traceback" not in process.stderr  # nor that of the loader's worker process
    assert process.stderr.splitlines()[-1] == f"fairseq_el: error: {message}"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--print-alignment", "hard"], "--print-alignment needs words in the source, and speech has none"),
        (
            ["--replace-unk", "", "--dataset-impl", "raw"],
            "--replace-unk needs words in the source, and speech has none",
        ),
        (["--constraints"], "--constraints can't be used with this --task"),
    ],
)
def test_options_that_speech_has_no_use_for(work, one, options, message):
    assert message in failure(work / "data", one, *options)


def test_a_dictionary_of_another_size(data, one):
    with open(data / "dict.txt", "a") as lines:
        lines.write("more 1\n")
    with pytest.raises(FairseqElError) as error:
        fairseq("generate", data, "--path", one, *EL)
    assert "decoder: 16 in the checkpoint, 17 in the data" in str(error.value)
    assert "vocab_filename of --config-yaml must name the dictionary that the model" in str(error.value)


def test_models_and_tasks_of_other_kinds(work, one, tmp_path):
    pairs = write_pairs(tmp_path, {"train": 2, "test": 2})
    assert "a model of speech (s2t_transformer), which this --task can't decode. Use --task el_speech" in failure(
        pairs, one, task="el_translation"
    )
    text = save_checkpoint(tmp_path / "text.pt")
    assert "a model with encoder and decoder (transformer), which this --task can't" in failure(work / "data", text)


def test_commands_for_text_say_what_to_use(work, one, capsys):
    assert main(["generate", str(work / "data"), "--path", str(one), "--input", __file__, "--output", "new"]) == 2
    assert "reads features of speech. Decode them with fairseq-generate" in capsys.readouterr().err
    assert not Path("new").exists()
    plan = ["--beam", "4", "--src-len", "9", "--tgt-len", "9", "--memory", "1GiB", "--dtype", "fp32"]
    assert main(["plan", "--path", str(one), *plan]) == 2
    assert "has an encoder that reads no words, as of speech" in capsys.readouterr().err
    assert main(["convert", "info", str(one)]) == 0
    assert "s2t_transformer" in capsys.readouterr().out


def test_training_with_this_task_is_stock_s(work, tmp_path):
    """With the same options and seed, weights are the same bit by bit."""
    weights = []
    for name, task, plugin in (("stock", "speech_to_text", False), ("el", "el_speech_to_text", True)):
        path = train(work / "data", "convtransformer", tmp_path / name, 2, task=task, plugin=plugin)
        weights.append(load_checkpoint(str(path), "CKPT").weights)
    trained = [name for name in weights[0] if not name.endswith("._float_tensor")]  # which fairseq 0.12.2 never sets
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in trained)
