"""``--task el_multilingual_translation``: a model of one pair of several decodes as in stock."""

from __future__ import annotations

import argparse
import random
import re
from typing import Any

import pytest
import torch
from commands import assert_same_hypotheses, hypotheses, texts
from fairseq import checkpoint_utils, tasks
from fairseq.data.data_utils import numpy_seed
from fairseq.models import MODEL_REGISTRY
from rounding import rounded_alike
from tiny import assert_same_hypotheses as assert_same_found
from tiny_data import fairseq, save_checkpoint, sentences
from tiny_multilingual import (
    ALL_SHARED,
    LANGUAGE_SYMBOLS,
    PAIRS,
    SIZES,
    save_multilingual,
    write_data,
    write_joined_data,
)

import fairseq_el
from fairseq_el import Generator
from fairseq_el.cli import main
from fairseq_el.errors import CheckpointMismatchError, FairseqElError, OptionError, UnsupportedModelError

STOCK, EL = "multilingual_translation", "el_multilingual_translation"
PRE_NORM = {"encoder_normalize_before": True, "decoder_normalize_before": True}
FORMS: dict[str, dict[str, Any]] = {
    "no symbols": {},
    "symbols": LANGUAGE_SYMBOLS,
    "symbol of the target": {"encoder_langtok": "tgt", **PRE_NORM},
    "shared": {**ALL_SHARED, **LANGUAGE_SYMBOLS},
}  # fmt: skip
ON_COMMAND_LINE = {"encoder_langtok": "--encoder-langtok", "decoder_langtok": "--decoder-langtok"}
SEARCHES = {
    "beam": ["--beam", 4, "--nbest", 4, "--lenpen", 0.6],
    "greedy": ["--beam", 1],
    "blocked n-grams": ["--beam", 3, "--no-repeat-ngram-size", 2, "--min-len", 6, "--el-ngram-blocking", "stock"],
    "prefixes": ["--prefix-size", 2, "--beam", 3],
    "sampling": ["--sampling", "--sampling-topk", 5, "--beam", 2, "--nbest", 2, "--seed", 3],
}


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """Data by their source language, and a checkpoint of each form."""
    directory = tmp_path_factory.mktemp("multilingual")
    data: dict[str, Any] = {**write_data(directory), "joined": write_joined_data(directory / "joined")}
    for name, options in FORMS.items():
        of = data["joined"] if name == "shared" else data["aa"]
        data[name] = save_multilingual(directory / f"{name}.pt", of, seed=2 if of is data["joined"] else 1, **options)
    return data


def options_of(form: str, source: str = "aa") -> list[Any]:
    symbols = [
        part
        for name, option in ON_COMMAND_LINE.items()
        for value in [FORMS[form].get(name)]
        for part in ([option] if value is True else [option, value] if value else [])
    ]
    return ["-s", source, "-t", "bb", "--lang-pairs", PAIRS, *symbols, "--max-len-b", 12]


def generate(task: str, data: Any, checkpoint: Any, *options: Any) -> str:
    if task == STOCK:  # it loses the last sentences otherwise, and does not have the option
        at = options.index("--el-ngram-blocking") if "--el-ngram-blocking" in options else len(options)
        options = (*options[:at], *options[at + 2 :], "--required-batch-size-multiple", 1)
    return fairseq("generate", data, "--path", checkpoint, "--task", task, "--batch-size", 8, *options)


@pytest.mark.parametrize("form", FORMS)
def test_hypotheses_of_each_pair(form, work, caplog):
    caplog.set_level("INFO", logger="fairseq_el")
    for source in ("aa",) if form == "shared" else ("aa", "cc"):
        data = work["joined"] if form == "shared" else work[source]
        options = [data, work[form], *options_of(form, source), "--beam", 3]
        stock = generate(STOCK, *options)
        assert "EL-attention enabled" not in caplog.text
        el = generate(EL, *options)
        assert "EL-attention enabled in 2 cross-attention modules (el)" in caplog.text
        assert_same_hypotheses(el, stock, num_sentences=SIZES["test"])
        assert len({words for found in hypotheses(el).values() for _, words in found}) > 1
        caplog.clear()


@pytest.mark.parametrize("search", SEARCHES)
def test_hypotheses_of_each_search(search, work):
    options = [work["aa"], work["symbols"], *options_of("symbols"), *SEARCHES[search]]
    stock, el = (generate(task, *options) for task in (STOCK, EL))
    assert_same_hypotheses(el, stock, num_sentences=SIZES["test"])


def test_an_ensemble_and_typed_input(work, tmp_path):
    other = save_multilingual(tmp_path / "other.pt", work["aa"], seed=2, **LANGUAGE_SYMBOLS)
    both = f"{work['symbols']}:{other}"
    options = [work["aa"], "--path", both, *options_of("symbols"), "--beam", 3]
    lines = "".join(f"{line}\n" for line in sentences(5, seed=4))
    stock, el = (fairseq("interactive", *options, "--task", task, stdin=lines) for task in (STOCK, EL))
    assert_same_hypotheses(el, stock, num_sentences=5)


def loaded(task: str, data: Any, checkpoint: Any, form: str, source: str) -> tuple[Any, Any]:
    """A task, and its model in float64."""
    given = {"data": str(data), "lang_pairs": PAIRS, "source_lang": source, "target_lang": "bb", "task": task}
    given.update(left_pad_source="True", left_pad_target="False", max_source_positions=64, max_target_positions=64)
    given.update({"encoder_langtok": None, "decoder_langtok": False})
    given.update({name: value for name, value in FORMS[form].items() if name in ON_COMMAND_LINE})
    of_task = tasks.setup_task(argparse.Namespace(**given))
    (model,), _ = checkpoint_utils.load_model_ensemble([str(checkpoint)], task=of_task)
    return of_task, model.double().eval()


@pytest.mark.parametrize("number", range(6))
def test_scores_in_float64(number, work):
    draw = random.Random(number)
    form = draw.choice([name for name in FORMS if name != "shared"])
    source = draw.choice(["aa", "cc"])
    options = argparse.Namespace(
        beam=draw.randint(1, 5), max_len_b=draw.randint(3, 14), lenpen=draw.uniform(0, 2), unkpen=draw.uniform(0, 1),
        min_len=draw.randint(1, 3), temperature=draw.uniform(0.7, 1.5), nbest=1,
    )  # fmt: skip
    lines = sentences(7, seed=number)
    found = []
    for name in (STOCK, EL):
        task, model = loaded(name, work[source], work[form], form, source)
        tokens = [task.source_dictionary.encode_line(line, add_if_not_exist=False).long() for line in lines]
        dataset = task.build_dataset_for_inference(tokens, [len(each) for each in tokens])
        with numpy_seed(number):  # equal lengths come in a random order
            dataset.ordered_indices()
        sample = dataset.collater([dataset[i] for i in range(len(lines))])
        generator = task.build_generator([model], options)
        with rounded_alike(torch.float64):
            result = task.inference_step(generator, [model], sample)
        found.append([[(h["tokens"].tolist(), float(h["score"])) for h in sentence] for sentence in result])
        assert fairseq_el.el_attention_enabled(model) == (name == EL)
    assert_same_found(found[1], found[0], rel=1e-10)


def test_shards(work):
    """fairseq's data set of several pairs counts sentences in an order of its own."""
    options = [work["aa"], work["symbols"], *options_of("symbols"), "--beam", 2]
    whole = hypotheses(generate(EL, *options))
    shards = [hypotheses(generate(EL, *options, "--num-shards", 3, "--shard-id", i)) for i in range(3)]
    assert sorted(len(shard) for shard in shards) == [5, 6, 6]
    joined = {number: found for shard in shards for number, found in shard.items()}
    assert {number: [words for _, words in found] for number, found in joined.items()} == {
        number: [words for _, words in found] for number, found in whole.items()
    }


def test_text_in_text_out(work, tmp_path, monkeypatch):
    """``fairseq-el generate`` finds the task; each line has its own hypothesis, however lines are batched."""
    lines = [*sentences(9, seed=5), ""]
    options = [work["aa"], "--path", work["symbols"], *options_of("symbols"), "--beam", 3]
    shown = fairseq("interactive", *options, "--task", STOCK, stdin="".join(f"{line}\n" for line in lines[:-1]))
    expected = [text for _, text in sorted(texts(shown, "D"), key=lambda pair: int(pair[0][2:]))]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in.txt").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    command = [*map(str, options), "--cpu", "--batch-size", "4", "--input", "in.txt", "--output", "out.txt", "--quiet"]
    assert main(["generate", *command]) == 0
    assert (tmp_path / "out.txt").read_text(encoding="utf-8").split("\n")[:-1] == [
        *(line.split("\t")[-1] for line in expected), "",
    ]  # fmt: skip
    generator = Generator.from_arguments([*map(str, options), "--cpu"])
    assert generator.loaded.longest_source == 64


def test_training_validates_all_pairs(work, tmp_path):
    """Training with the task is stock's: the same weights."""
    tiny = [f"--{side}-{name}" for side in ("encoder", "decoder") for name in ("embed-dim", "ffn-embed-dim")]
    sizes = [part for option in tiny for part in (option, 8)]
    for side in ("encoder", "decoder"):
        sizes += [f"--{side}-layers", 1, f"--{side}-attention-heads", 2]
    found = []
    for task in (STOCK, EL):
        options = ["--arch", "multilingual_transformer", "--lang-pairs", "aa-bb", "--max-update", 2]
        options += ["--optimizer", "sgd"]
        options += ["--lr", 0.1, "--save-dir", tmp_path / task, "--batch-size", 4, "--task", task, *sizes]
        options += ["--no-epoch-checkpoints", "--valid-subset", "test", "--required-batch-size-multiple", 1]
        fairseq("train", work["aa"], *options)
        found.append(torch.load(tmp_path / task / "checkpoint_last.pt")["model"])
    assert list(found[0]) == list(found[1])
    trained = [
        name for name in found[0] if not name.endswith("._float_tensor")
    ]  # numbers that fairseq 0.12.2 never sets
    assert all(torch.equal(found[1][name], found[0][name]) for name in trained)
    trained = tmp_path / EL / "checkpoint_last.pt"
    one_pair = ["-s", "aa", "-t", "bb", "--lang-pairs", "aa-bb", "--max-len-b", 9]
    stock, el = (generate(task, work["aa"], trained, *one_pair) for task in (STOCK, EL))
    assert_same_hypotheses(el, stock, num_sentences=SIZES["test"])


WRONG = {
    "no pairs": (["-s", "aa", "-t", "bb"], "--lang-pairs must list the pairs that the model was trained with"),
    "no pair": (["-s", "aa", "-t", "bb", "--lang-pairs", "aa,bb"], "--lang-pairs must be pairs SOURCE-TARGET .*'aa'"),
    "no languages": (["--lang-pairs", PAIRS], "must both be given, .* --source-lang and --target-lang are missing"),
    "one language": (["-s", "aa", "--lang-pairs", PAIRS], "of aa-bb, cc-bb; --target-lang is missing"),
    "another pair": (["-s", "bb", "-t", "aa", "--lang-pairs", PAIRS], "a pair of --lang-pairs, .*; they are 'bb-aa'"),
    "constraints": (["-s", "aa", "-t", "bb", "--lang-pairs", PAIRS, "--constraints"], "--constraints can't be used"),
}


@pytest.mark.parametrize("name", WRONG)
def test_languages_that_can_not_be_decoded(name, work):
    options, message = WRONG[name]
    with pytest.raises(OptionError, match=message):
        generate(EL, work["aa"], work["no symbols"], *options)


def test_options_that_are_not_the_models(work):
    given = ["-s", "aa", "-t", "bb", "--lang-pairs", "aa-bb", "--encoder-langtok", "tgt"]
    with pytest.raises(CheckpointMismatchError) as caught:
        generate(EL, work["aa"], work["symbols"], *given)
    assert str(caught.value).splitlines() == [
        "The languages must be given as the model was trained:",
        "  - --lang-pairs must be aa-bb,cc-bb; it is aa-bb",
        "  - --encoder-langtok must be src; it is tgt",
        "  - --decoder-langtok must be given",
    ]
    with pytest.raises(CheckpointMismatchError, match="--encoder-langtok must not be given; it is src"):
        generate(EL, work["aa"], work["no symbols"], *options_of("symbols"))


def test_other_dictionaries_and_other_models(work, tmp_path):
    with pytest.raises(CheckpointMismatchError, match="decoder: 18 in the checkpoint, 20 in the data"):
        generate(EL, work["joined"], work["no symbols"], *options_of("no symbols"))
    one = save_checkpoint(tmp_path / "one.pt")
    with pytest.raises(CheckpointMismatchError, match="is a model with encoder and decoder"):
        generate(EL, work["aa"], one, *options_of("no symbols"))
    message = r"is several models, one for each pair .* Use --task el_multilingual_translation, with the --lang-pairs"
    with pytest.raises(CheckpointMismatchError, match=message):
        generate("el_translation", work["aa"], work["no symbols"], "-s", "aa", "-t", "bb")


def test_a_model_of_several_pairs_is_not_decoded_silently(work):
    given = {"data": str(work["aa"]), "lang_pairs": PAIRS, "source_lang": None, "target_lang": None}
    given.update(
        left_pad_source="True", left_pad_target="False", encoder_langtok=None, decoder_langtok=False, task=STOCK
    )
    task = tasks.setup_task(argparse.Namespace(**given))
    (model,), _ = checkpoint_utils.load_model_ensemble([str(work["no symbols"])], task=task)
    assert isinstance(model, MODEL_REGISTRY["multilingual_transformer"])
    with pytest.raises(UnsupportedModelError, match=re.escape("it holds 2 models, of aa-bb, cc-bb, and decodes with")):
        fairseq_el.enable_el_attention(model)


def test_info_and_plan(work, capsys):
    assert main(["convert", "info", str(work["symbols"]), "--data", str(work["aa"])]) == 0
    printed = capsys.readouterr().out
    assert "multilingual_transformer, task multilingual_translation" in printed
    assert "a model for each pair of languages, aa-bb, cc-bb; the first one has" in printed
    assert "encoder: 2 layers, width 16, feed-forward 24, 4 heads, 23 symbols" in printed
    assert "EL-attention: supported" in printed and "mismatch" not in printed
    plan = ["--beam", "4", "--src-len", "10", "--tgt-len", "10", "--dtype", "fp32", "--memory", "1GiB"]
    assert main(["plan", "--path", str(work["symbols"]), *plan]) == 0


def test_not_to_hugging_face(work, capsys):
    pytest.importorskip("safetensors", reason="safetensors is not installed: pip install fairseq_el[hf]")
    with pytest.raises((FairseqElError, SystemExit)):
        raise SystemExit(main(["convert", "to-hf", str(work["symbols"]), "--out", "never"]))
    assert "to-hf needs a model of an architecture" in capsys.readouterr().err
