"""``fairseq-el recipe`` from raw text to scores.

The CNN/DailyMail recipe runs on real articles with the real GPT-2 BPE; a tiny BART with random weights stands in for
bart.large.cnn, so its summaries mean nothing.
"""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import numpy
import pytest
from commands import REPOSITORY, kill_in_the_middle
from fairseq.models.bart import BARTModel
from random_models import TINY_BART, TINY_LM, write_random_model

from fairseq_el.cli import main
from fairseq_el.files import read_lines
from fairseq_el.generation import el_generator
from fairseq_el.recipes import read_recipe
from fairseq_el.recipes.preprocess_step import open_tokenizer
from fairseq_el.scoring import read_hypotheses

CNNDM = REPOSITORY / "configs" / "cnndm.yaml"
ARTICLES = (6, 9, 0, 7)  # some shorter than 1,024 tokens, some longer
WORDS = 50260  # of the dictionary of bart.large, without special symbols
# By step, the directory it makes, and a file that is there in the middle of it.
PRODUCTS = {
    "preprocess": ("data", "bin/dict.target.txt"),
    "generate": ("generated", "output.txt"),
    "score": ("scores", "hypotheses.txt"),
}


@pytest.fixture(scope="module")
def inputs(shared, tmp_path_factory) -> Path:
    """A working directory with text, BPE and dictionary, brought by hand. The model is to come."""
    work = tmp_path_factory.mktemp("inputs")
    articles = (shared / "data" / "cnndm_128" / "articles.txt").read_text("utf-8").split("\n")
    summaries = (shared / "data" / "cnndm_128" / "bart_large_cnn.hypo").read_text("utf-8").split("\n")
    for name, texts in (("test.source", articles), ("test.target", summaries)):
        (work / name).write_text("".join(texts[number] + "\n" for number in ARTICLES), "utf-8")
    for name in ("encoder.json", "vocab.bpe"):
        shutil.copyfile(shared / "data" / "gpt2_bpe" / name, work / name)
    words = (shared / "data" / "gpt2_bpe" / "dict.txt").read_text("utf-8").split("\n")
    (work / "dict.txt").write_text("".join(word + "\n" for word in words[:WORDS]), "utf-8")
    return work


def recipe(capsys, step: str, work: Path, config: Path = CNNDM, fails: bool = False) -> str:
    status = main(["recipe", step, str(config), "--work", str(work)])
    printed = capsys.readouterr()
    assert (status != 0) == fails, printed
    return printed.err if fails else printed.out


@pytest.mark.long
def test_killed_in_every_step_and_run_again(inputs, tmp_path, capsys):
    """The CNN/DailyMail recipe. What comes out in the end is what fairseq's hub gives."""
    work = tmp_path / "work"
    shutil.copytree(inputs, work)
    model = work / "bart.large.cnn"
    model.mkdir()
    for language in ("source", "target"):  # as in the archive of bart.large.cnn
        shutil.copy(work / "dict.txt", model / f"dict.{language}.txt")
    write_random_model(model, TINY_BART, gain=20)
    assert "vocab.bpe: is there, checksum is right" in recipe(capsys, "download", work)
    following = dict(zip(PRODUCTS, [*PRODUCTS, None][1:]))
    for step, (product, middle) in PRODUCTS.items():
        arguments = ["recipe", step, str(CNNDM), "--work", str(work)]
        kill_in_the_middle(arguments, lambda part=f".{product}.unfinished-*/{product}/{middle}": list(work.glob(part)))
        assert not (work / product).exists()
        if following[step]:
            message = recipe(capsys, following[step], work, fails=True)
            assert f"{following[step]} needs what {step} makes, and {work / product} is not there" in message
        recipe(capsys, step, work)
    assert sorted(path.name for path in work.glob(".*")) == []
    assert_cut_as_the_hub_does(work)
    assert_decoded_as_the_hub_does(work)
    assert_scored_as_text(work, capsys)
    assert_run_again_only_for_other_settings(work, tmp_path, capsys)


def assert_cut_as_the_hub_does(work: Path) -> None:
    report = json.loads((work / "data" / "report.json").read_text())
    whole, cut = ((work / "data" / name).read_text().splitlines() for name in ("test.bpe.source", "test.source"))
    tokenizer = open_tokenizer(read_recipe(CNNDM), work)
    assert whole == [tokenizer.encode(line.strip()) for line in (work / "test.source").read_text("utf-8").splitlines()]
    lengths = [len(line.split()) for line in whole]
    assert min(lengths) < 1022 < max(lengths)
    for before, after in zip(whole, cut):
        assert after.split() == ["<s>", *before.split()[:1022]]
    assert report["source"]["cut"] == sum(length > 1022 for length in lengths) and report["source"]["lines"] == 4
    assert report["source"]["longest"] == max(lengths) and report["source"]["longest_kept"] == 1024


def assert_decoded_as_the_hub_does(work: Path) -> None:
    """With n-grams blocked as this package does: fairseq's own blocking has no effect on a CPU."""
    files = {"gpt2_encoder_json": str(work / "encoder.json"), "gpt2_vocab_bpe": str(work / "vocab.bpe")}
    directory = str(work / "bart.large.cnn")
    hub = BARTModel.from_pretrained(directory, "model.pt", data_name_or_path=directory, bpe="gpt2", **files).eval()
    build = hub.task.build_generator
    hub.task.build_generator = lambda *args, **kwargs: el_generator(build(*args, **kwargs))
    articles = [hub.encode(line.strip()) for line in (work / "test.source").read_text("utf-8").splitlines()]
    settings = {"lenpen": 2.0, "max_len_b": 140, "min_len": 55, "no_repeat_ngram_size": 3}
    expected = [best[0] for best in hub.generate(articles, beam=4, **settings)]
    by_number = read_hypotheses(read_lines(work / "generated" / "output.txt", "output").lines)
    found = [by_number[number][0] for number in range(len(ARTICLES))]
    words = hub.task.target_dictionary
    assert [hypothesis.tokens for hypothesis in found] == [words.string(best["tokens"]) for best in expected]
    for hypothesis, best in zip(found, expected):
        assert hypothesis.score == pytest.approx(float(best["score"]) / math.log(2), abs=1e-4)
    assert all(55 <= len(best["tokens"]) <= 142 for best in expected)
    assert len({hypothesis.tokens for hypothesis in found}) == len(ARTICLES)  # they depend on the article


def assert_scored_as_text(work: Path, capsys) -> None:
    hypotheses = (work / "scores" / "hypotheses.txt").read_text("utf-8").splitlines()
    assert len(hypotheses) == len(ARTICLES) and all(hypotheses)
    references = work / "scores" / "references.txt"
    assert references.read_text("utf-8") == (work / "test.target").read_text("utf-8")
    files = [str(work / "scores" / "hypotheses.txt"), "--ref", str(references)]
    assert main(["score", *files, "--metrics", "rouge", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == json.loads((work / "scores" / "scores.json").read_text())


def assert_run_again_only_for_other_settings(work: Path, tmp_path: Path, capsys) -> None:
    before = {path: path.stat().st_mtime_ns for path in work.rglob("*") if path.is_file()}
    for step in PRODUCTS:
        assert f"{step}: nothing to do, " in recipe(capsys, step, work)
    assert {path: path.stat().st_mtime_ns for path in work.rglob("*") if path.is_file()} == before
    config = tmp_path / "cnndm.yaml"
    config.write_text(CNNDM.read_text("utf-8").replace("beam: 4", "beam: 2"), "utf-8")
    assert "generated is made from other files or settings" in recipe(capsys, "score", work, config, fails=True)
    config.write_text(CNNDM.read_text("utf-8").replace("begin: true", "begin: false"), "utf-8")
    assert "data is made from other files or settings" in recipe(capsys, "generate", work, config, fails=True)


@pytest.mark.skipif(
    int(numpy.__version__.split(".")[0]) >= 2, reason="fairseq's data sets of language models use what numpy 2 removed"
)
def write_gpt2(bpe: Path, directory: Path) -> None:
    """A tiny GPT-2 of random weights through ``convert from-hf``; fairseq's own model where transformers is missing."""
    try:
        from transformers import GPT2Config, GPT2LMHeadModel
    except ImportError:
        directory.mkdir()
        shutil.copy(bpe / "dict.txt", directory)
        write_random_model(directory, TINY_LM)
        return
    source = directory.with_name("hf")
    GPT2LMHeadModel(GPT2Config(n_embd=16, n_layer=1, n_head=2)).save_pretrained(source)
    shutil.copyfile(bpe / "encoder.json", source / "vocab.json")
    shutil.copyfile(bpe / "vocab.bpe", source / "merges.txt")
    assert main(["convert", "from-hf", str(source), "--out", str(directory)]) == 0


@pytest.mark.long
def test_language_models_continue_prompts(inputs, tmp_path, capsys):
    """The GPT-2 recipe with a tiny language model of random weights: prompts are cut, and no part of a summary."""
    work, config = tmp_path / "work", tmp_path / "gpt2.yaml"
    shutil.copytree(inputs, work)
    write_gpt2(work, work / "gpt2")
    text = (REPOSITORY / "configs" / "gpt2_cnndm.yaml").read_text("utf-8")
    text = text.replace("max_source: 512", "max_source: 160").replace("max_len_b: 200", "max_len_b: 12")
    config.write_text(text + "batch_size: 4\n")
    printed = "".join(recipe(capsys, step, work, config) for step in PRODUCTS)
    tokenizer = open_tokenizer(read_recipe(config), work)
    end = tokenizer.encode(" TL;DR:").split()
    prompts = (work / "data" / "test.source").read_text("utf-8").splitlines()
    assert [len(prompt.split()) for prompt in prompts] == [160, 149 + len(end), 160, 160]
    assert all(prompt.split()[-len(end) :] == end for prompt in prompts)
    assert "test.source: 4 lines, the longest of 1,492 tokens; 3 of more than 156 were cut" in printed
    output = read_hypotheses(read_lines(work / "generated" / "output.txt", "output").lines)
    hypotheses = (work / "scores" / "hypotheses.txt").read_text("utf-8").splitlines()
    for number, prompt in enumerate(prompts):
        words, begun = output[number][0].tokens.split(), prompt.split()
        assert words[: len(begun)] == begun and len(words) > len(begun)
        assert hypotheses[number] == tokenizer.decode(words[len(begun) :][:12])
    assert "rouge1" in json.loads((work / "scores" / "scores.json").read_text())["scores"]
