"""The shared real checkpoints on their whole test sets, stock against EL, through ``fairseq-generate``."""

from __future__ import annotations

import gzip
import os
import re
from pathlib import Path

import pytest
import sacrebleu
import sentencepiece
from commands import LOSE_NO_SENTENCE, USER_DIR, assert_same_hypotheses, run, texts

from fairseq_el.ops import why_no_int8

pytestmark = pytest.mark.real

MODELS = {
    "deen": ("de", "en", ["--batch-size", "64"]),
    "captions": (
        "src",
        "tgt",
        ["--batch-size", "64", "--min-len", "5", "--max-len-b", "60", "--no-repeat-ngram-size", "3"],
    ),
}
NUM_SENTENCES = 1000
BEAMS = [int(beam) for beam in os.environ.get("FAIRSEQ_EL_BEAMS", "1,4,5,10").split(",")]  # fewer, to save time


def read(path: Path) -> list[str]:
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return file.read().splitlines()


def sources_and_references(shared: Path, name: str) -> tuple[list[str], list[str]]:
    if name == "deen":
        texts = shared / "data" / "multi30k"
        return read(texts / "test_2016_flickr.de.gz"), read(texts / "test_2016_flickr.en.gz")
    descriptions = [read(shared / "data" / "captions" / f"test_2016.{i}.en.gz") for i in range(1, 6)]
    return [" ".join(four) for four in zip(*descriptions[1:])], descriptions[0]


@pytest.fixture(scope="module", params=MODELS)
def real(request, shared, tmp_path_factory):
    """The arguments that decode one real checkpoint on its test set, and the references."""
    name = request.param
    source, target, options = MODELS[name]
    directory, work = shared / "models" / name, tmp_path_factory.mktemp(name)
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(directory / "spm.model"))
    sources, references = sources_and_references(shared, name)
    for language, sentences in ((source, sources), (target, references)):
        encoded = "".join(" ".join(pieces.encode(sentence, out_type=str)) + "\n" for sentence in sentences)
        (work / f"test.{language}").write_text(encoded, encoding="utf-8")
    dictionaries = ["--srcdict", directory / f"dict.{source}.txt", "--tgtdict", directory / f"dict.{target}.txt"]
    data = ["-s", source, "-t", target, "--testpref", work / "test", "--destdir", work / "data-bin"]
    run("preprocess", *data, *dictionaries)
    return [work / "data-bin", "--path", directory / "model.pt", "--remove-bpe", "sentencepiece", *options], references


@pytest.mark.parametrize("beam", BEAMS)
def test_identical_hypotheses_scores_and_bleu(real, beam):
    arguments, references = real
    el = ["--task", "el_translation", "--el-ngram-blocking", "stock"]  # stock blocks no n-gram on a CPU
    methods = {
        ("stock", ""): ["--task", "translation", *LOSE_NO_SENTENCE],
        ("shared-kv", "kv"): [*el, "--el-backend", "shared-kv"],
        ("el", "el"): [*el, "--el-self-attention", "el"],
    }
    results = {
        name: run("generate", *arguments, "--beam", beam, "--user-dir", USER_DIR, *method)
        for name, method in methods.items()
    }
    stock = results.pop(("stock", ""))
    for (cross, own), el in results.items():
        assert f"enabled in 3 cross-attention modules ({cross}) and 3 self-attention modules ({own})" in el.stderr
        assert_same_hypotheses(el.stdout, stock.stdout, NUM_SENTENCES)
        assert generate_line(el) == generate_line(stock) != []
        assert bleu(el, references) == bleu(stock, references) > 5


@pytest.mark.skipif(bool(why_no_int8("cpu")), reason=why_no_int8("cpu"))
def test_weights_in_8_bits_keep_bleu(real):
    arguments, references = real
    exact, int8 = (
        run("generate", *arguments, "--beam", 5, "--user-dir", USER_DIR, "--task", "el_translation", *more)
        for more in ([], ["--el-weights", "int8"])
    )
    assert texts(int8.stdout, "P") != texts(exact.stdout, "P")
    assert bleu(int8, references) == pytest.approx(bleu(exact, references), abs=0.3)


def generate_line(process) -> list[str]:
    return re.findall("^Generate test.*", process.stdout, re.M)


def bleu(process, references: list[str]) -> float:
    by_id = {int(index[2:]): text for index, text in texts(process.stdout, "D")}
    return sacrebleu.corpus_bleu([by_id[i] for i in range(NUM_SENTENCES)], [references]).score
