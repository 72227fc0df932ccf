"""``fairseq-el recipe`` from raw text to scores.

The CNN/DailyMail recipe runs on real articles with the real GPT-2 BPE; a tiny BART with random weights stands in for
bart.large.cnn, so its summaries mean nothing. The demo's recipe runs on the bundled model, which is real.
"""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import fairseq
import numpy
import pytest
import torch
from commands import EXAMPLE, REPOSITORY
from fairseq.models.bart import BARTModel

from fairseq_el.cli import main
from fairseq_el.errors import FairseqElError
from fairseq_el.generation import el_generator
from fairseq_el.recipes import read_recipe
from fairseq_el.recipes.pieces import Pieces
from fairseq_el.recipes.preprocess import Language, write_tokens
from fairseq_el.scoring import read_hypotheses

CNNDM = REPOSITORY / "configs" / "cnndm.yaml"
ENCODER = Path(fairseq.__file__).parent / "examples" / "roberta" / "multiprocessing_bpe_encoder.py"
ARTICLES = (6, 9, 0, 7)  # some shorter than 1,024 tokens, some longer
WORDS = 50260  # of the dictionary of bart.large, without special symbols
TINY = ["--encoder-layers", "1", "--decoder-layers", "1", "--encoder-embed-dim", "16", "--decoder-embed-dim", "16"]
TINY += ["--encoder-ffn-embed-dim", "32", "--decoder-ffn-embed-dim", "32"]
TINY += ["--encoder-attention-heads", "2", "--decoder-attention-heads", "2"]
HARD = ("  x", "a\u00a0b", "caf\u00e9 \u4e2d \U0001f600", "tab\there", "a\u2028b", "<s> </s>", "it's  spaced ")
PRODUCTS = {"preprocess": "data", "generate": "generated", "score": "scores"}


def bart(work: Path) -> None:
    """Writes ``bart.large.cnn/model.pt``, and beside it the dictionaries that fairseq's hub wants."""
    directory = work / "bart.large.cnn"
    directory.mkdir()
    for language in ("source", "target"):
        shutil.copy(work / "dict.txt", directory / f"dict.{language}.txt")
    command = [sys.executable, str(REPOSITORY / "scripts" / "random_checkpoint.py"), str(directory)]
    options = ["--task", "translation", "--arch", "bart_base", *TINY, "-s", "source", "-t", "target"]
    subprocess.run([*command, *options, "--save-dir", str(directory)], check=True, capture_output=True)
    state = torch.load(directory / "checkpoint_random.pt")
    for weight in state["model"].values():  # else the output hardly depends on the article
        if weight.dim() == 2:
            weight.mul_(20)
    torch.save(state, directory / "model.pt")


@pytest.fixture(scope="module")
def inputs(shared, tmp_path_factory) -> Path:
    """A working directory with all files that the recipe needs, brought by hand."""
    work = tmp_path_factory.mktemp("inputs")
    articles = (shared / "data" / "cnndm_128" / "articles.txt").read_text("utf-8").split("\n")
    summaries = (shared / "data" / "cnndm_128" / "bart_large_cnn.hypo").read_text("utf-8").split("\n")
    for name, texts in (("test.source", articles), ("test.target", summaries)):
        (work / name).write_text("".join(texts[number] + "\n" for number in ARTICLES), "utf-8")
    for name in ("encoder.json", "vocab.bpe"):
        shutil.copyfile(shared / "data" / "gpt2_bpe" / name, work / name)
    words = (shared / "data" / "gpt2_bpe" / "dict.txt").read_text("utf-8").split("\n")
    (work / "dict.txt").write_text("".join(word + "\n" for word in words[:WORDS]), "utf-8")
    bart(work)
    return work


@pytest.fixture(scope="module")
def done(inputs, tmp_path_factory) -> Path:
    """The same, with all steps done and never disturbed."""
    work = tmp_path_factory.mktemp("done") / "work"
    shutil.copytree(inputs, work)
    for step in ("download", *PRODUCTS):
        assert main(["recipe", step, str(CNNDM), "--work", str(work)]) == 0
    return work


def recipe(capsys, step: str, work: Path, config: Path = CNNDM, fails: bool = False) -> str:
    status = main(["recipe", step, str(config), "--work", str(work)])
    printed = capsys.readouterr()
    assert (status != 0) == fails, printed
    return printed.err if fails else printed.out


def contents(directory: Path) -> dict:
    """Of all files but logs, which have times in them."""
    files = (path for path in directory.rglob("*") if path.is_file() and path.name != "log.txt")
    return {str(path.relative_to(directory)): path.read_bytes() for path in files}


def test_preprocessing_is_that_of_fairseq(done, shared, tmp_path):
    """Byte for byte, on what the recipe has read, on all articles, and on lines that are hard."""
    if not ENCODER.exists():
        pytest.skip(f"fairseq is installed without {ENCODER}")
    articles = (shared / "data" / "cnndm_128" / "articles.txt").read_bytes()
    (tmp_path / "hard").write_bytes(articles + "\n".join(["", *HARD, "one\rtwo", "no line end"]).encode())
    pieces = Pieces(read_recipe(CNNDM).bpe, done)
    write_tokens(Language("hard", tmp_path / "hard", done / "dict.txt", limit=9), pieces, tmp_path)
    for raw, mine in (
        (done / "test.source", done / "data" / "test.bpe.source"),
        (done / "test.target", done / "data" / "test.bpe.target"),
        (tmp_path / "hard", tmp_path / "test.bpe.hard"),
    ):
        bpe = ["--encoder-json", done / "encoder.json", "--vocab-bpe", done / "vocab.bpe"]
        files = ["--inputs", raw, "--outputs", tmp_path / "theirs"]
        command = [sys.executable, ENCODER, *files, *bpe, "--keep-empty", "--workers", "1"]
        subprocess.run(list(map(str, command)), check=True)
        assert (tmp_path / "theirs").read_bytes() == mine.read_bytes()
        assert mine.stat().st_size > 1000


def test_texts_are_cut_as_the_hub_cuts_them(done):
    report = json.loads((done / "data" / "report.json").read_text())
    whole, cut = ((done / "data" / name).read_text().splitlines() for name in ("test.bpe.source", "test.source"))
    lengths = [len(line.split()) for line in whole]
    assert min(lengths) < 1022 < max(lengths)
    for before, after in zip(whole, cut):
        assert after.split() == ["<s>", *before.split()[:1022]]
    assert report["source"]["cut"] == sum(length > 1022 for length in lengths) and report["source"]["lines"] == 4
    assert report["source"]["longest"] == max(lengths) and report["source"]["longest_kept"] == 1024


def test_hypotheses_are_those_of_the_hub(done):
    """fairseq's hub, with n-grams blocked as this package does (its own blocking has no effect on a CPU)."""
    files = {"gpt2_encoder_json": str(done / "encoder.json"), "gpt2_vocab_bpe": str(done / "vocab.bpe")}
    directory = str(done / "bart.large.cnn")
    hub = BARTModel.from_pretrained(directory, "model.pt", data_name_or_path=directory, bpe="gpt2", **files).eval()
    build = hub.task.build_generator
    hub.task.build_generator = lambda *args, **kwargs: el_generator(build(*args, **kwargs))
    articles = [hub.encode(line.strip()) for line in (done / "test.source").read_text("utf-8").splitlines()]
    settings = {"lenpen": 2.0, "max_len_b": 140, "min_len": 55, "no_repeat_ngram_size": 3}
    expected = [best[0] for best in hub.generate(articles, beam=4, **settings)]
    by_number = read_hypotheses((done / "generated" / "output.txt").read_text("utf-8").split("\n"))
    found = [by_number[number][0] for number in range(len(ARTICLES))]
    words = hub.task.target_dictionary
    assert [hypothesis.tokens for hypothesis in found] == [words.string(best["tokens"]) for best in expected]
    for hypothesis, best in zip(found, expected):
        assert hypothesis.score == pytest.approx(float(best["score"]) / math.log(2), abs=1e-4)
    assert all(55 <= len(best["tokens"]) <= 142 for best in expected)
    assert len({hypothesis.tokens for hypothesis in found}) == len(ARTICLES)  # they depend on the article


def test_scores_are_of_the_text(done, capsys):
    hypotheses = (done / "scores" / "hypotheses.txt").read_text("utf-8").splitlines()
    assert len(hypotheses) == len(ARTICLES) and all(hypotheses)
    references = done / "scores" / "references.txt"
    assert references.read_text("utf-8") == (done / "test.target").read_text("utf-8")
    files = [str(done / "scores" / "hypotheses.txt"), "--ref", str(references)]
    assert main(["score", *files, "--metrics", "rouge", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == json.loads((done / "scores" / "scores.json").read_text())


def test_a_second_run_does_nothing(done, capsys):
    before = {path: path.stat().st_mtime_ns for path in done.rglob("*") if path.is_file()}
    assert "vocab.bpe: is there, checksum is right" in recipe(capsys, "download", done)
    for step in PRODUCTS:
        assert f"{step}: nothing to do, " in recipe(capsys, step, done)
    assert {path: path.stat().st_mtime_ns for path in done.rglob("*") if path.is_file()} == before


def test_other_settings_are_other_work(done, tmp_path, capsys):
    config = tmp_path / "cnndm.yaml"
    config.write_text(CNNDM.read_text("utf-8").replace("beam: 4", "beam: 2"), "utf-8")
    assert "generated is made from other files or settings" in recipe(capsys, "score", done, config, fails=True)
    config.write_text(CNNDM.read_text("utf-8").replace("begin: true", "begin: false"), "utf-8")
    assert "data is made from other files or settings" in recipe(capsys, "generate", done, config, fails=True)


@pytest.mark.parametrize(
    ("step", "when"), [("preprocess", "bin/dict.target.txt"), ("generate", "output.txt"), ("score", "hypotheses.txt")]
)
def test_killed_in_the_middle(step, when, done, tmp_path, capsys):
    """Only the command is killed: programs that it has started go on, as they do when a user's shell is killed."""
    work, product = tmp_path / "work", PRODUCTS[step]
    shutil.copytree(done, work)
    shutil.rmtree(work / product)
    command = [sys.executable, "-m", "fairseq_el.cli", "recipe", step, str(CNNDM), "--work", str(work)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 300
    while not list(work.glob(f".{product}.unfinished-*/{when}")):
        assert process.poll() is None and time.monotonic() < deadline, f"{step} was over before it was killed"
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not (work / product).exists()
    if step != "score":
        following = {"preprocess": "generate", "generate": "score"}[step]
        message = recipe(capsys, following, work, fails=True)
        assert f"{following} needs what {step} makes, and {work / product} is not there" in message
    recipe(capsys, step, work)
    assert contents(work / product) == contents(done / product)


def break_dictionary(work: Path) -> None:
    words = (work / "dict.txt").read_text("utf-8").split("\n")
    (work / "dict.txt").write_text("\n".join(words[:40000]) + "\n", "utf-8")


def shuffle_dictionary(work: Path) -> None:
    words = (work / "dict.txt").read_text("utf-8").split("\n")[:-1]
    (work / "dict.txt").write_text("".join(f"x{word}\n" for word in words), "utf-8")


def remove_references(work: Path) -> None:
    (work / "test.target").unlink()
    (work / "vocab.bpe").unlink()


@pytest.mark.parametrize(
    ("breaks", "message"),
    [
        (remove_references, "preprocess needs 2 files that are not in .*: test.target, vocab.bpe. Run first:"),
        (break_dictionary, "encoder: 50,264 in the checkpoint, 40,004 in dict.txt"),
        (shuffle_dictionary, "every token of gpt2 BPE must be in the dictionary; [0-9,]+ of .*test.source are not"),
        (lambda work: (work / "dict.txt").write_text("no counts\n"), "dict.txt must be a dictionary of fairseq"),
        (lambda work: (work / "test.target").write_text("one\n"), "test.source has 4 lines and test.target 1"),
        (lambda work: (work / "test.target").write_bytes(b"\xff\n"), "test.target must be text in UTF-8"),
        (lambda work: (work / "vocab.bpe").write_bytes(b"\xff"), "the files of BPE gpt2 can't be read"),
        (lambda work: (work / "encoder.json").write_text("{"), "the files of BPE gpt2 can't be read"),
        (
            lambda work: (work / "bart.large.cnn" / "model.pt").write_bytes(b"PK"),
            "model.pt could not be read|model.pt .* not",
        ),
    ],
)
def test_bad_input(breaks, message, inputs, tmp_path, capsys):
    work = tmp_path / "work"
    shutil.copytree(inputs, work)
    breaks(work)
    assert re.search(message, recipe(capsys, "preprocess", work, fails=True))
    assert not (work / "data").exists() and not list(work.glob(".data*"))


def test_the_commands_of_the_documentation(tmp_path):
    """As a user types them; BLEU is the one that examples/deen has measured. The second block finds all done."""
    text = (REPOSITORY / "docs" / "recipes.md").read_text("utf-8")
    steps, script = re.findall(r"```sh\n(.*?)```", text, re.S)
    for name in ("configs", "examples", "scripts"):
        (tmp_path / name).symlink_to(REPOSITORY / name)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "OMP_NUM_THREADS": "1"}
    for block, skipped in ((steps, 0), (script, 3)):
        process = subprocess.run(
            ["sh", "-ec", block], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        assert process.returncode == 0, process.stderr[-3000:]
        assert re.search(r"^BLEU +34\.74 ", process.stdout, re.M)
        assert process.stdout.count("nothing to do") == skipped
    assert (tmp_path / "recipes" / "demo" / "captions.de").read_bytes() == (EXAMPLE / "captions.de").read_bytes()


def test_the_yaml_file_of_the_documentation(tmp_path):
    (block,) = re.findall(r"```yaml\n(.*?)```", (REPOSITORY / "docs" / "recipes.md").read_text("utf-8"), re.S)
    block = block.replace("0123...", "ab" * 32)
    path = tmp_path / "recipe.yaml"
    path.write_text(block)
    with pytest.raises(FairseqElError) as error:
        read_recipe(path)
    problems = str(error.value).split("\n  - ")[1:]
    assert problems == [  # every key is known; only what the example leaves out is missing
        "files must say where encoder.json comes from",
        "files must say where vocab.bpe comes from",
        "prompt_end is for task language_modeling",
    ]


def test_pieces_and_back(shared):
    pieces = Pieces(read_recipe(CNNDM).bpe, shared / "data" / "gpt2_bpe")
    for text in HARD:
        encoded = pieces.encode(text)
        assert all(piece.isdigit() for piece in encoded.split())
        assert pieces.decode(encoded.split()) == text.strip()
    assert pieces.decode(["madeupword0000", *pieces.encode("two\nlines").split()]) == "two lines"


def test_pieces_of_split_text(tmp_path):
    pieces = Pieces({"name": "split"}, tmp_path)
    assert pieces.encode("ein Ba@@ um") == "ein Ba@@ um"
    assert pieces.decode(["ein", "Ba@@", "um"]) == "ein Baum"


@pytest.mark.skipif(
    int(numpy.__version__.split(".")[0]) >= 2, reason="fairseq's data sets of language models use what numpy 2 removed"
)
def test_language_models_continue_prompts(inputs, tmp_path, capsys):
    """The GPT-2 recipe with a tiny language model of random weights: prompts are cut, and no part of a summary."""
    work, config = tmp_path / "work", tmp_path / "gpt2.yaml"
    shutil.copytree(inputs, work)
    (work / "gpt2").mkdir()
    shutil.copy(work / "dict.txt", work / "gpt2")
    command = [sys.executable, str(REPOSITORY / "scripts" / "random_checkpoint.py"), str(work / "gpt2")]
    sizes = ["--decoder-layers", "1", "--decoder-embed-dim", "16", "--decoder-ffn-embed-dim", "16"]
    sizes += ["--decoder-attention-heads", "2", "--decoder-input-dim", "16", "--decoder-output-dim", "16"]
    options = ["--task", "language_modeling", "--arch", "transformer_lm", *sizes, "--save-dir", str(work / "gpt2")]
    subprocess.run([*command, *options], check=True, capture_output=True)
    (work / "gpt2" / "checkpoint_random.pt").rename(work / "gpt2" / "model.pt")
    text = (REPOSITORY / "configs" / "gpt2_cnndm.yaml").read_text("utf-8")
    config.write_text(text.replace("max_source: 512", "max_source: 160").replace("max_len_b: 200", "max_len_b: 12"))
    printed = "".join(recipe(capsys, step, work, config) for step in PRODUCTS)
    pieces = Pieces(read_recipe(config).bpe, work)
    end = pieces.encode(" TL;DR:").split()
    prompts = (work / "data" / "test.source").read_text("utf-8").splitlines()
    assert [len(prompt.split()) for prompt in prompts] == [160, 149 + len(end), 160, 160]
    assert all(prompt.split()[-len(end) :] == end for prompt in prompts)
    assert "test.source: 4 lines, the longest of 1,492 tokens; 3 of more than 156 were cut" in printed
    output = read_hypotheses((work / "generated" / "output.txt").read_text("utf-8").split("\n"))
    hypotheses = (work / "scores" / "hypotheses.txt").read_text("utf-8").splitlines()
    for number, prompt in enumerate(prompts):
        words, begun = output[number][0].tokens.split(), prompt.split()
        assert words[: len(begun)] == begun and len(words) > len(begun)
        assert hypotheses[number] == pieces.decode(words[len(begun) :][:12])
    assert "rouge1" in json.loads((work / "scores" / "scores.json").read_text())["scores"]
