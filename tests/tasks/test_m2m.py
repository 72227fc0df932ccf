"""Native checkpoints of M2M-100's kind: one dictionary for all languages, with ``--fixed-dictionary``."""

from __future__ import annotations

from typing import Any

import pytest
from commands import assert_same_hypotheses, hypotheses, texts
from fairseq.data.multilingual.multilingual_utils import get_lang_tok
from tiny import dictionary
from tiny_data import WORDS, fairseq, save_checkpoint, sentences, write_pairs

from fairseq_el.cli import main
from fairseq_el.errors import CheckpointMismatchError

TASK = "translation_multi_simple_epoch"
LANGUAGES = ["aa", "bb", "cc"]
MODEL: dict[str, Any] = {  # as facebook's: pre-norm, sinusoids, one embedding
    "encoder_normalize_before": True, "decoder_normalize_before": True, "share_all_embeddings": True,
    "encoder_layerdrop": 0.05, "decoder_layerdrop": 0.05,
}  # fmt: skip
SETTINGS: dict[str, Any] = {
    "langs": LANGUAGES, "lang_pairs": "aa-bb,bb-cc", "encoder_langtok": "src", "decoder_langtok": True,
    "lang_tok_style": "multilingual", "source_lang": None, "target_lang": None,
    "fixed_dictionary": "/gone/model_dict.txt",
}  # fmt: skip
SEED = 2  # of a model whose outputs vary
SEARCHES = {
    "beam": ["--beam", 5, "--lenpen", 1.3],
    "greedy": ["--beam", 1],
    "n-best without blocked n-grams": ["--beam", 4, "--nbest", 3, "--min-len", 5],
    "sampling": ["--sampling", "--beam", 2, "--nbest", 2, "--seed", 7],
}


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """Data of aa-bb, the dictionary of all languages with their symbols, and a checkpoint."""
    directory = tmp_path_factory.mktemp("m2m")
    words = dictionary(WORDS)
    for language in LANGUAGES:
        words.add_symbol(get_lang_tok(language, "multilingual"))
    words.add_symbol("madeupword0000")
    words.save(str(directory / "model_dict.txt"))
    data = write_pairs(directory, {"train": 1, "test": 19})
    given = {"words": words, "task": TASK, "seed": SEED, **MODEL, **SETTINGS}
    model = save_checkpoint(directory / "model.pt", "transformer_wmt_en_de_big", **given)
    given.update(encoder_layerdrop=0, decoder_layerdrop=0)
    save_checkpoint(directory / "no_layerdrop.pt", "transformer_wmt_en_de_big", **given)
    return directory, data, model


def options(work: Any, *more: Any) -> list[Any]:
    directory, data, model = work
    languages = ["-s", "aa", "-t", "bb", "--langs", ",".join(LANGUAGES), "--lang-pairs", "aa-bb,bb-cc"]
    symbols = ["--encoder-langtok", "src", "--decoder-langtok"]
    fixed = ["--fixed-dictionary", directory / "model_dict.txt", "--required-batch-size-multiple", 1]
    return [data, "--path", model, *languages, *symbols, *fixed, "--max-len-b", 12, *more]


@pytest.mark.parametrize("name", SEARCHES)
def test_same_as_stock(name, work, caplog):
    caplog.set_level("INFO", logger="fairseq_el")
    given = options(work, *SEARCHES[name], "--batch-size", 8)
    if name == "sampling":  # stock draws numbers for layers in every pass, if a model has --encoder-layerdrop
        given[2] = work[0] / "no_layerdrop.pt"
    stock = fairseq("generate", *given, "--task", TASK)
    assert "EL-attention enabled" not in caplog.text
    el = fairseq("generate", *given, "--task", f"el_{TASK}")
    assert "EL-attention enabled in 2 cross-attention modules (el)" in caplog.text
    assert_same_hypotheses(el, stock, num_sentences=19)
    shown = {words for found in hypotheses(el).values() for _, words in found}
    assert len(shown) > 1 and not any("__bb__" in words for words in shown)


def test_text_in_text_out(work, tmp_path, monkeypatch):
    """The task of the checkpoint is found; DATA may have no dictionary at all."""
    lines = sentences(7, seed=8)
    stock = fairseq("interactive", *options(work, "--beam", 3), "--task", TASK, stdin="\n".join(lines) + "\n")
    expected = [line.split("\t")[-1] for _, line in sorted(texts(stock, "D"), key=lambda pair: int(pair[0][2:]))]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    _, *given = options(work, "--beam", 3)
    given = [str(part) for part in given]
    at = given.index("--required-batch-size-multiple")
    command = [
        str(tmp_path),
        *given[:at],
        *given[at + 2 :],
        "--cpu",
        "--input",
        "in.txt",
        "--output",
        "out.txt",
        "--quiet",
    ]
    assert main(["generate", *command]) == 0
    assert (tmp_path / "out.txt").read_text(encoding="utf-8").splitlines() == expected


def test_another_dictionary(work, tmp_path):
    dictionary(WORDS - 5).save(str(tmp_path / "small.txt"))
    given = options(work, "--fixed-dictionary", tmp_path / "small.txt")
    with pytest.raises(CheckpointMismatchError, match=r"small\.txt must be the model's own dictionary"):
        fairseq("generate", *given, "--task", f"el_{TASK}")


def test_info_and_plan(work, capsys):
    """The dictionary is found by the name that the checkpoint has for it."""
    directory, _, model = work
    assert main(["convert", "info", str(model)]) == 0
    printed = capsys.readouterr().out
    assert f"dictionary: {directory / 'model_dict.txt'}, 24 symbols" in printed and "mismatch" not in printed
    assert "EL-attention: supported" in printed and "24 symbols" in printed
    plan = ["--beam", "4", "--src-len", "10", "--tgt-len", "10", "--dtype", "fp32", "--memory", "1GiB"]
    assert main(["plan", "--path", str(model), *plan]) == 0
