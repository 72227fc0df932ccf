"""Raw text through both programs: the commands that ``from-hf`` prints write what transformers' ``generate()`` writes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import hf_models
import numpy
import pytest
import sentencepiece
import torch
from commands import EXAMPLE
from hf_models import transformers
from transformers import AutoTokenizer

from fairseq_el.conversion.hf.byte_bpe import encoder_of

TEXTS = ["in the other room a man is here", "he", "there are two dogs on a red boat", "a", "Two men, one child."]
PROMPTS = ["he is", "the man on the train and her other train are in the", "a", "red boat on the"]
needs_numpy_1 = pytest.mark.skipif(
    int(numpy.__version__.split(".")[0]) >= 2, reason="fairseq's data sets of language models use what numpy 2 removed"
)


def byte_tokens(family: str) -> list[str]:
    """What can be printed, and a space, which is enough for English text; the merges of hf_models."""
    symbols = [token for token in encoder_of(hf_models.MERGES) if len(token) > 1 or token.isascii() or token == "Ġ"]
    return symbols if family == "gpt2" else ["<s>", "<pad>", "</s>", "<unk>", *symbols, "<mask>"]


@pytest.fixture(scope="session")
def pieces(tmp_path_factory) -> Path:
    """A sentencepiece model of the bundled captions."""
    work = tmp_path_factory.mktemp("spm")
    sentencepiece.SentencePieceTrainer.train(
        input=str(EXAMPLE / "captions.en"), model_prefix=str(work / "spm"), vocab_size=120, model_type="unigram",
        character_coverage=1.0, minloglevel=2,
    )  # fmt: skip
    return work / "spm.model"


def sentencepiece_tokens(pieces: Path, family: str) -> list[str]:
    model = sentencepiece.SentencePieceProcessor(model_file=str(pieces))
    found = [model.id_to_piece(index) for index in range(3, len(model))]
    if family == "marian":
        return ["</s>", "<unk>", *found, ">>fra<<", "<pad>"]
    if family == "pegasus":
        return ["<pad>", "</s>", "<mask_1>", "<mask_2>", *(f"<unk_{i}>" for i in range(2, 103)), "<unk>", *found]
    return ["<s>", "<pad>", "</s>", "<unk>", *found, *_languages(family), "<mask>"]


def _languages(family: str) -> list[str]:
    from fairseq_el.conversion.hf.tokens import _LANGUAGES_25, _LANGUAGES_50

    return [*_LANGUAGES_25, *(_LANGUAGES_50 if family == "mbart50" else ())]


def make(
    family: str, path: Path, monkeypatch, pieces: Path | None = None, seed: int = 4, saved: bool = False,
    added: Any = (), config: dict[str, Any] | None = None, **generation: Any,
) -> tuple[Any, Any]:  # fmt: skip
    """A model in ``path``, with its tokenizer's files as they are published, or (``saved``) as transformers saves them."""
    tokens = byte_tokens(family) if family in ("bart", "gpt2") else sentencepiece_tokens(pieces, family)
    tokens = [*tokens, *(str(token) for token in added)]
    monkeypatch.setattr(hf_models, "vocabulary", lambda _: tokens)
    config = {"n_positions" if family == "gpt2" else "max_position_embeddings": 64, **(config or {})}
    model = hf_models.build(family, seed, **config)
    hf_models.save(model, family, path, **generation)
    (path / "tokenizer.json").unlink(missing_ok=True)
    names = {
        "bart": "BartTokenizer",
        "gpt2": "GPT2Tokenizer",
        "marian": "MarianTokenizer",
        "pegasus": "PegasusTokenizer",
    }
    names |= {"mbart50": "MBart50Tokenizer", "mbart25": "MBartTokenizer"}
    settings: dict[str, Any] = {"tokenizer_class": names[family]}
    if family.startswith("mbart"):
        settings.update(src_lang="en_XX", tgt_lang="ro_RO")
    if family == "marian":
        settings.update(source_lang="en", target_lang="de")
        shutil.copy(pieces, path / "source.spm")
        shutil.copy(pieces, path / "target.spm")
    elif family not in ("bart", "gpt2"):
        shutil.copy(pieces, path / {"pegasus": "spiece.model"}.get(family, "sentencepiece.bpe.model"))
    if added:
        settings["added_tokens_decoder"] = {
            str(tokens.index(str(token))): {
                "content": str(token), "special": token.special, "lstrip": token.lstrip, "rstrip": token.rstrip,
                "single_word": token.single_word, "normalized": token.normalized,
            }
            for token in added
        }  # fmt: skip
        if family in ("bart", "gpt2"):  # vocab.json has no added tokens
            (path / "vocab.json").write_text(json.dumps({t: i for i, t in enumerate(byte_tokens(family))}))
    hf_models.write_json(path / "tokenizer_config.json", settings)
    tokenizer = AutoTokenizer.from_pretrained(str(path))
    if saved:
        for name in ("vocab.json", "merges.txt", "spiece.model", "sentencepiece.bpe.model"):
            if family != "marian":
                (path / name).unlink(missing_ok=True)
        tokenizer.save_pretrained(str(path))
        tokenizer = AutoTokenizer.from_pretrained(str(path))
    return transformers.AutoModelForSeq2SeqLM.from_pretrained(
        str(path)
    ).eval() if family != "gpt2" else model, tokenizer


def generated(model: Any, tokenizer: Any, lines: list[str], **options: Any) -> list[str]:
    """One by one, as if each were alone."""
    found = []
    for line in lines:
        inputs = tokenizer(line, return_tensors="pt")
        inputs.pop("token_type_ids", None)
        if inputs["input_ids"].numel() == 0:
            inputs = {}
        with torch.no_grad():
            (ids,) = model.generate(**inputs, **options)
        found.append(tokenizer.decode(ids, skip_special_tokens=True).strip())
    return found


def both_ways(execute, lines: list[str], source: str = "hf") -> list[list[str]]:
    """What the printed commands write: interactively, and from binary data."""
    Path("test.txt").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    printed = execute(f"fairseq-el convert from-hf {source} --out out")
    commands = [line for line in printed.splitlines() if line.startswith(("fairseq-", "cp "))]
    assert [command.split()[0] for command in commands][0] == "fairseq-interactive"
    assert commands[-1].startswith("fairseq-generate DATA")
    outputs = [execute(command) for command in commands]
    return [sentences(outputs[0]), sentences(outputs[-1])]


def sentences(output: str) -> list[str]:
    found = {
        int(line[2:].split("\t")[0]): line.split("\t", 2)[2] for line in output.split("\n") if line.startswith("D-")
    }
    return [found[number].strip() for number in sorted(found)]


BEAM: dict[str, Any] = {"num_beams": 4, "max_length": 24}
SETTINGS: dict[str, dict[str, Any]] = {
    "defaults": {},
    "greedy": {"max_length": 15, "min_length": 6},
    "beam": BEAM,
    "short": {**BEAM, "max_length": 6, "length_penalty": 2.0},
    "early": {**BEAM, "early_stopping": True, "length_penalty": 2.0, "min_length": 5, "no_repeat_ngram_size": 3},
    "never": {**BEAM, "early_stopping": "never", "length_penalty": 0.5, "max_new_tokens": 9, "min_new_tokens": 4},
    "negative": {**BEAM, "length_penalty": -1.0, "no_repeat_ngram_size": 2, "min_length": 5},
}


def assert_same(execute, model, tokenizer, lines: list[str], **options: Any) -> None:
    expected = generated(model, tokenizer, lines, **options)
    assert len(set(expected)) > 1
    for found in both_ways(execute, lines):
        assert found == expected


@pytest.mark.parametrize("name", SETTINGS)
def test_bart(name, tmp_path, monkeypatch, execute):
    monkeypatch.chdir(tmp_path)
    settings = SETTINGS[name]
    if name == "early":  # bart-large-cnn's
        settings = {**settings, "forced_bos_token_id": 0, "forced_eos_token_id": 2}
    model, tokenizer = make("bart", tmp_path / "hf", monkeypatch, **settings, bad_words_ids=[[1]])
    assert_same(execute, model, tokenizer, TEXTS)


@needs_numpy_1
@pytest.mark.parametrize("name", SETTINGS)
def test_gpt2(name, tmp_path, monkeypatch, execute):
    monkeypatch.chdir(tmp_path)
    settings = {**SETTINGS[name]}
    if settings.get("max_length", 99) < 30:
        settings["max_length"] = 55
    model, tokenizer = make("gpt2", tmp_path / "hf", monkeypatch, seed=9, **settings)
    assert_same(execute, model, tokenizer, PROMPTS)
