"""The shared real checkpoints on their test sets, stock against EL, through ``fairseq-generate``.

With fewer than 100 ``FAIRSEQ_EL_CASES``, the first sentences of each set stand for all. EL decodes natively where the
extension is compiled, and with a beam of 5 step by step in Python too.
"""

from __future__ import annotations

import gzip
import itertools
import os
import re
from pathlib import Path

import pytest
import sacrebleu
import sentencepiece
import torch
from commands import LOSE_NO_SENTENCE, USER_DIR, hypotheses, run, texts
from fairseq import checkpoint_utils
from fairseq.sequence_generator import SequenceGenerator

from fairseq_el import native
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
IS_WHOLE = int(os.environ.get("FAIRSEQ_EL_CASES", "100")) >= 100
NUM_SENTENCES = 1000 if IS_WHOLE else 200
BEAMS = [int(beam) for beam in os.environ.get("FAIRSEQ_EL_BEAMS", "1,4,5,10").split(",")]  # fewer, to save time


def read(path: Path) -> list[str]:
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return file.read().splitlines()[:NUM_SENTENCES]


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
    """The five best ones with a beam of 5, and the best one with others."""
    arguments, references = real
    num_best = 5 if beam == 5 else 1

    def generate(*method, **env):
        more = ["--beam", beam, "--nbest", num_best, "--user-dir", USER_DIR]
        return run("generate", *arguments, *more, *method, **env)

    stock = generate("--task", "translation", *LOSE_NO_SENTENCE)
    # Stock blocks no n-gram on a CPU. Asked for the same, EL leaves that to stock's module, step by step.
    as_stock, none = ["--el-ngram-blocking", "stock"], ["--no-repeat-ngram-size", 0]
    ways = [("1", none), ("0", as_stock)] if beam == 5 else [("1", none)]
    for switch, blocking in ways:
        for cross, own in (("shared-kv", "kv"), ("el", "el")):
            backend = ["--task", "el_translation", "--el-backend", cross, "--el-self-attention", own]
            el = generate(*backend, *blocking, FAIRSEQ_EL_NATIVE=switch)
            assert f"enabled in 3 cross-attention modules ({cross}) and 3 self-attention modules ({own})" in el.stderr
            is_native = switch == "1" and native.extension() is not None
            assert ("Batches are decoded by NativeSearch" in el.stdout + el.stderr) == is_native
            ties, others = ties_among_same_hypotheses(el.stdout, stock.stdout, num_best)
            gaps = {index: smallest_gap(arguments, beam, index) for index, _ in others}
            print(f"beam {beam}, {num_best} best, {cross}, {own}, native {switch}: ties {ties}, in the search {gaps}")
            assert all(gap <= 1e-5 for gap in gaps.values())
            ties += others
            assert len(ties) <= NUM_SENTENCES // 100
            if not any(rank == 0 for _, rank in ties):
                assert generate_line(el) == generate_line(stock) != []
                assert bleu(el, references) == bleu(stock, references) > 5


def ties_among_same_hypotheses(mine: str, theirs: str, num_best: int) -> tuple[list, list]:
    """Sentences and first ranks that differ: those whose scores show a tie at every rank, and the others."""
    mine_by_id, theirs_by_id = hypotheses(mine), hypotheses(theirs)
    assert sorted(mine_by_id) == sorted(theirs_by_id) == list(range(NUM_SENTENCES))
    ties, others = [], []
    for index, expected in theirs_by_id.items():
        found = mine_by_id[index]
        assert len(found) == len(expected) == num_best
        far = [abs(my[0] - their[0]) > 1e-5 for my, their in zip(found, expected)]
        differs = [is_far or my[1] != their[1] for is_far, my, their in zip(far, found, expected)]
        if any(differs):
            (others if any(far) else ties).append((index, differs.index(True)))
    return ties, others


def smallest_gap(arguments: list, beam: int, index: int) -> float:
    """Between two neighbours among the best candidates of stock's search, in float64, in any step."""
    number = {name: int(value) for name, value in zip(arguments, arguments[1:]) if name in ("--min-len", "--max-len-b")}
    models, _, task = checkpoint_utils.load_model_ensemble_and_task(
        [str(arguments[2])], arg_overrides={"data": str(arguments[0])}
    )
    task.load_dataset("test")
    source = task.dataset("test")[index]["source"].unsqueeze(0)
    model, gaps = models[0].eval().double(), []
    generator = SequenceGenerator(
        [model],
        task.target_dictionary,
        beam_size=beam,
        min_len=number.get("--min-len", 1),
        max_len_b=number.get("--max-len-b", 200),
    )
    search = generator.search.step

    def step(number, log_probs, scores, *args, **more):
        each = log_probs + scores[:, :, number - 1].unsqueeze(2) if number else log_probs[:, :1]
        best = each.reshape(-1).topk(2 * beam + 1)[0]
        gaps.append(float((best[:-1] - best[1:]).min()))
        return search(number, log_probs, scores, *args, **more)

    generator.search.step = step
    net_input = {"src_tokens": source, "src_lengths": torch.tensor([source.size(1)])}
    generator.generate([model], {"id": torch.tensor([index]), "net_input": net_input})
    return min(gaps)


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
    best: dict[int, str] = {}
    for line in process.stdout.split("\n"):
        if line.startswith("D-"):
            index, _, text = line[2:].split("\t")
            best.setdefault(int(index), text)
    return sacrebleu.corpus_bleu([best[i] for i in range(NUM_SENTENCES)], [references]).score


WAYS = list(itertools.product(("0", None, "all"), (1, 7, 64), (1, 2)))  # windows, sentences in a batch, workers
FEW_WAYS = [("0", 7, 1), (None, 64, 1), ("all", 1, 2)]


@pytest.mark.parametrize("name", MODELS)
def test_text_in_text_out(name, shared, tmp_path):
    """Windows, batches and workers give the same bytes: the texts of stock with each sentence in a batch of its own."""
    source, target, given = MODELS[name]
    directory = shared / "models" / name
    sources, _ = sources_and_references(shared, name)
    (tmp_path / "in.txt").write_text("".join(f"{line}\n" for line in sources), encoding="utf-8")
    pieces = ["--bpe", "sentencepiece", "--sentencepiece-model", directory / "spm.model"]
    options = [*given[2:], "--max-len-a", "1.2", "--max-len-b", "10", "--cpu"]  # by the length of each source
    if "--no-repeat-ngram-size" in options:  # stock blocks none without its CUDA extension
        options[options.index("--no-repeat-ngram-size") + 1] = "0"
    arguments = [directory, "-s", source, "-t", target, "--path", directory / "model.pt", *pieces, *options]
    files = ["--input", tmp_path / "in.txt"]
    stock = run("interactive", *arguments, *files, "--user-dir", USER_DIR, "--task", "translation")
    texts_of_stock = re.findall(r"^D-\d+\t\S+\t(.*)$", stock.stdout, re.M)
    assert len(texts_of_stock) == len(sources)
    expected = "".join(f"{text}\n" for text in texts_of_stock)
    for window, batch_size, workers in WAYS if IS_WHOLE else FEW_WAYS:
        batches = ["--batch-size", batch_size, *(["--window", window] if window else [])]
        output = tmp_path / f"{window}-{batch_size}-{workers}.txt"
        run("el", "generate", *arguments, *files, *batches, "--workers", workers, "--output", output, "--quiet")
        assert output.read_text(encoding="utf-8") == expected, (
            f"window {window}, {batch_size} a batch, {workers} workers"
        )
