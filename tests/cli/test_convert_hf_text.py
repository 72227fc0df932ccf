"""Raw text through both programs: the commands that ``from-hf`` prints write what ``generate()`` writes."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import hf_models
import numpy
import pytest
import sentencepiece
import torch
from commands import EXAMPLE, REPOSITORY
from fairseq.data import Dictionary
from hf_models import transformers

from fairseq_el import enable_el_attention
from fairseq_el.conversion.hf import from_hf
from fairseq_el.conversion.hf.families import FAMILIES
from fairseq_el.conversion.hf.hf_directory import HFDirectory
from fairseq_el.conversion.hf.languages import M2M_LANGUAGES, MBART_25, MBART_50
from fairseq_el.conversion.hf.tokenizer_files import encoder_of
from fairseq_el.conversion.hf.vocabulary import read_vocabulary
from fairseq_el.errors import OptionError
from fairseq_el.tokenization import read_codec

AddedToken, AutoTokenizer = transformers.AddedToken, transformers.AutoTokenizer
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
    """sentencepiece models of the bundled captions, one for each kind of tokenizer, by the names in ``PIECES``."""
    work = tmp_path_factory.mktemp("spm")
    kinds: dict[str, dict[str, Any]] = {
        "spm": {},
        "pegasus": {"pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1},
        "bpe": {"model_type": "bpe"},
    }
    for name, ids in kinds.items():
        sentencepiece.SentencePieceTrainer.train(
            input=str(EXAMPLE / "captions.en"), model_prefix=str(work / name), vocab_size=120, minloglevel=2, **ids
        )
    return work


def scored(pieces: Path, family: str) -> list[tuple[str, float]]:
    """Tokens by id, with sentencepiece's scores, as the tokenizers' classes order them."""
    model = sentencepiece.SentencePieceProcessor(model_file=str(pieces / PIECES.get(family, "spm.model")))
    found = [(model.id_to_piece(index), model.get_score(index)) for index in range(3, len(model))]
    names = {
        "marian": (["</s>", "<unk>"], [">>fra<<", "<pad>"]),
        "pegasus": (["<pad>", "</s>", "<mask_1>", "<mask_2>", *(f"<unk_{i}>" for i in range(2, 103)), "<unk>"], []),
    }
    after = [] if family in M2M_CODES else ["<mask>"]
    before, after = names.get(family, (["<s>", "<pad>", "</s>", "<unk>"], [*_languages(family), *after]))
    return [*((name, 0.0) for name in before), *found, *((name, 0.0) for name in after)]


def sentencepiece_tokens(pieces: Path, family: str) -> list[str]:
    return [token for token, _ in scored(pieces, family)]


def _languages(family: str) -> list[str]:
    if family in M2M_CODES:
        return [f"__{language}__" for language in M2M_LANGUAGES[M2M_CODES[family]]]
    return {"nllb": [*hf_models.NLLB_LANGUAGES], "mbart50": [*MBART_50]}.get(family, [*MBART_25])


def make(
    family: str, path: Path, monkeypatch, pieces: Path | None = None, seed: int = 4, saved: bool = False,
    added: Any = (), config: dict[str, Any] | None = None, **generation: Any,
) -> tuple[Any, Any]:  # fmt: skip
    """A model in ``path``, with its tokenizer as it is published, or (``saved``) as transformers saves it."""
    tokens = byte_tokens(family) if family in ("bart", "gpt2") else sentencepiece_tokens(pieces, family)
    tokens = [*tokens, *(str(token) for token in added)]
    monkeypatch.setattr(hf_models, "vocabulary", lambda _: tokens)
    config = {"n_positions" if family == "gpt2" else "max_position_embeddings": 64, **(config or {})}
    kind = "m2m100" if family in M2M_CODES else family
    if family in M2M_CODES:
        tokens += ["madeupword0000", "madeupword0001"]
    model = hf_models.build(kind, seed, **config)
    hf_models.save(model, kind, path, **generation)
    (path / "tokenizer.json").unlink(missing_ok=True)
    settings: dict[str, Any] = {"tokenizer_class": CLASSES[family]}
    languages = dict(zip(("src_lang", "tgt_lang"), PAIRS.get(family, ())))
    settings.update(languages)
    if family in M2M_CODES:
        settings.update(language_codes=M2M_CODES[family], additional_special_tokens=_languages(family))
    if family == "marian":
        settings.update(source_lang="en", target_lang="de")
        for name in ("source.spm", "target.spm"):
            shutil.copy(pieces / "spm.model", path / name)
    elif family not in ("bart", "gpt2"):
        name = "spiece.model" if family == "pegasus" else "sentencepiece.bpe.model"
        shutil.copy(pieces / PIECES.get(family, "spm.model"), path / name)
    if added:
        whole = [AddedToken(token, special=True) for token in (_languages(family) if family in M2M_CODES else ())]
        settings["added_tokens_decoder"] = {
            str(tokens.index(str(token))): {
                "content": str(token), "special": token.special, "lstrip": token.lstrip, "rstrip": token.rstrip,
                "single_word": token.single_word, "normalized": token.normalized,
            }
            for token in [*whole, *added]
        }  # fmt: skip
        if family in ("bart", "gpt2", *M2M_CODES):  # vocab.json has no added tokens
            words = byte_tokens(family) if family in ("bart", "gpt2") else sentencepiece_tokens(pieces, family)
            words = [word for word in words if word not in _languages(family)]
            hf_models.write_json(path / "vocab.json", {word: index for index, word in enumerate(words)})
    hf_models.write_json(path / "tokenizer_config.json", settings)
    if family in ("pegasus", "mbart25", "mbart50"):  # transformers reads sentencepiece models with protobuf alone
        tokenizer = getattr(transformers, CLASSES[family])(vocab=scored(pieces, family), **languages)
        tokenizer.add_tokens(list(added))
    elif family == "nllb":  # published with its tokenizer.json
        tokenizer = nllb_tokenizer(pieces, **languages)
        tokenizer.add_tokens(list(added))
        tokenizer.save_pretrained(str(path))
    else:
        tokenizer = AutoTokenizer.from_pretrained(str(path))
    if saved:
        for name in ("vocab.json", "merges.txt", "spiece.model", "sentencepiece.bpe.model"):
            if family != "marian" and family not in M2M_CODES:
                (path / name).unlink(missing_ok=True)
        tokenizer.save_pretrained(str(path))
        tokenizer = AutoTokenizer.from_pretrained(str(path))
    return type(model).from_pretrained(str(path)).eval(), tokenizer


def nllb_tokenizer(pieces: Path, **languages: str) -> Any:
    """Of the class's own making, with merges as transformers makes them of a sentencepiece model."""
    from transformers.convert_slow_tokenizer import generate_merges

    found = scored(pieces, "nllb")
    words = found[4 : -len(hf_models.NLLB_LANGUAGES) - 1]
    merges = generate_merges({token: index for index, (token, _) in enumerate(words)}, dict(words))
    vocab = {token: index for index, (token, _) in enumerate(found)}
    return transformers.NllbTokenizer(vocab=vocab, merges=merges, extra_special_tokens=_languages("nllb"), **languages)


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
    assert commands[0].startswith("fairseq-interactive out ") and commands[-1].startswith("fairseq-generate DATA")
    outputs = [execute(command) for command in commands]
    return [sentences(outputs[0]), sentences(outputs[-1])]


def sentences(output: str) -> list[str]:
    found = {
        int(line[2:].split("\t")[0]): line.split("\t", 2)[2] for line in output.split("\n") if line.startswith("D-")
    }
    return [found[number].strip() for number in sorted(found)]


CLASSES = {
    "bart": "BartTokenizer",
    "gpt2": "GPT2Tokenizer",
    "marian": "MarianTokenizer",
    "pegasus": "PegasusTokenizer",
    "mbart50": "MBart50Tokenizer",
    "mbart25": "MBartTokenizer",
    "m2m100": "M2M100Tokenizer",
    "wmt21": "M2M100Tokenizer",
    "nllb": "NllbTokenizer",
}
M2M_CODES = {"m2m100": "m2m100", "wmt21": "wmt21"}  # the setting language_codes of M2M100Tokenizer
PAIRS = {  # source and target language
    "mbart25": ("en_XX", "ro_RO"),
    "mbart50": ("en_XX", "ro_RO"),
    "m2m100": ("en", "ro"),
    "wmt21": ("en", "cs"),
    "nllb": ("eng_Latn", "ron_Latn"),
}
PIECES = {"pegasus": "pegasus.model", "m2m100": "bpe.model", "wmt21": "bpe.model", "nllb": "bpe.model"}
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


def one_python_but(names: Any, *others: str) -> list[Any]:
    """The names, of which CI tries ``others`` with every Python, and the rest with one: other numbers, same code."""
    return [pytest.param(name, marks=[] if name in others else pytest.mark.long) for name in names]


@pytest.mark.parametrize("name", one_python_but(SETTINGS, "early"))
def test_bart(name, tmp_path, monkeypatch, execute):
    monkeypatch.chdir(tmp_path)
    settings = SETTINGS[name]
    if name == "early":  # bart-large-cnn's
        settings = {**settings, "forced_bos_token_id": 0, "forced_eos_token_id": 2}
    model, tokenizer = make("bart", tmp_path / "hf", monkeypatch, **settings, bad_words_ids=[[1]])
    assert_same(execute, model, tokenizer, TEXTS)


@needs_numpy_1
@pytest.mark.parametrize("name", one_python_but(SETTINGS, "never"))
def test_gpt2(name, tmp_path, monkeypatch, execute):
    monkeypatch.chdir(tmp_path)
    settings = {**SETTINGS[name]}
    if settings.get("max_length", 99) < 30:
        settings["max_length"] = 55
    model, tokenizer = make("gpt2", tmp_path / "hf", monkeypatch, seed=9, **settings)
    assert_same(execute, model, tokenizer, PROMPTS)


SPM_SETTINGS: dict[str, dict[str, Any]] = {
    "marian": {"num_beams": 4, "max_length": 24, "forced_eos_token_id": 0},
    "pegasus": {"num_beams": 3, "min_length": 6, "max_length": 20, "length_penalty": 0.8, "forced_eos_token_id": 1},
    "mbart50": {"num_beams": 3, "max_length": 20, "early_stopping": True, "forced_eos_token_id": 2},
    "mbart25": {"num_beams": 3, "max_length": 20, "length_penalty": 1.2},
    "m2m100": {"num_beams": 3, "max_length": 20, "early_stopping": True, "forced_eos_token_id": 2},
    "wmt21": {"num_beams": 4, "max_length": 22, "length_penalty": 1.3, "no_repeat_ngram_size": 3},
    "nllb": {"num_beams": 3, "max_length": 20, "min_length": 5, "length_penalty": 0.8, "forced_eos_token_id": 2},
}


def test_the_commands_of_the_page_for_m2m(pieces, tmp_path, monkeypatch, execute):
    """But the last one, for a checkpoint of fairseq's own: tests/tasks/test_m2m.py decodes some."""
    monkeypatch.chdir(tmp_path)
    make("m2m100", tmp_path / "m2m100_418M", monkeypatch, pieces, 4, False, **SPM_SETTINGS["m2m100"])
    (tmp_path / "test.txt").write_text("\n".join([*TEXTS, ""]), encoding="utf-8")
    page = (REPOSITORY / "docs" / "convert.md").read_text(encoding="utf-8").replace("\\\n", " ")
    section = page.partition("## Translate with M2M-100")[2].partition("\n## ")[0]
    convert, interactive, _ = re.findall("^    (fairseq-.*)$", section, re.M)
    of_another_pair = "--source-lang en --target-lang de --lang-pairs en-de --fixed-dictionary m2m/dict.txt"
    shown = " ".join(interactive.split())
    assert of_another_pair in shown
    printed = " ".join(execute(convert).replace("\\\n", " ").split())
    assert all(part.strip() in printed for part in shown.partition(" <")[0].split(of_another_pair))
    assert len(re.findall("^D-", execute(interactive), re.M)) == len(TEXTS)


@pytest.mark.parametrize("saved", [False, True], ids=["published", "saved"])
@pytest.mark.parametrize("family", one_python_but(SPM_SETTINGS, "marian", "mbart50", "wmt21", "nllb"))
def test_sentencepiece(family, saved, pieces, tmp_path, monkeypatch, execute):
    """Published files have a sentencepiece model; transformers 5 saves a tokenizer.json."""
    monkeypatch.chdir(tmp_path)
    settings = dict(SPM_SETTINGS[family])
    tokens = sentencepiece_tokens(pieces, family)
    if family in PAIRS and family != "mbart25":
        language = PAIRS[family][1]
        settings["forced_bos_token_id"] = tokens.index(f"__{language}__" if family in M2M_CODES else language)
    if family == "m2m100":  # most of its tokens are languages
        languages = {tokens.index(token) for token in _languages(family)}
        settings["suppress_tokens"] = sorted(languages - {settings["forced_bos_token_id"]})
    if family == "mbart25":
        settings["decoder_start_token_id"] = sentencepiece_tokens(pieces, family).index("ro_RO")
    config = {"decoder_start_token_id": settings["decoder_start_token_id"]} if family == "mbart25" else None
    seed = {"marian": 8, "pegasus": 5}.get(family, 4)
    if family == "pegasus":
        settings["suppress_tokens"] = list(range(2, 105))
    model, tokenizer = make(family, tmp_path / "hf", monkeypatch, pieces, seed, saved, config=config, **settings)
    is_slow = family == "marian" or family in M2M_CODES
    assert (tmp_path / "hf" / "tokenizer.json").exists() == ((saved and not is_slow) or family == "nllb")
    assert_same(execute, model, tokenizer, TEXTS, bad_words_ids=[[model.config.pad_token_id]])


HL = [
    AddedToken("<hl>"),
    AddedToken("[SEP]", special=True),
    AddedToken(" a b ", lstrip=True),
    AddedToken("solo", single_word=True),
    AddedToken("<end>", rstrip=True),
]
MARKED = [
    "in the <hl> other <hl> room",
    "<hl>he [SEP] the<hl>",
    "see a b here",
    "<mask> one <end>  two </s> three",
    "plain",
    "solo said: solo and solos",
]


@pytest.mark.parametrize("saved", [False, True], ids=["published", "saved"])
@pytest.mark.parametrize("family", ["bart", "gpt2", "marian", "pegasus", "mbart50", "wmt21", "nllb"])
def test_added_tokens(family, saved, pieces, tmp_path, monkeypatch, execute):
    """Encoded as one token each, and written by the model: both as the tokenizer has them."""
    monkeypatch.chdir(tmp_path)
    seed = {"marian": 8, "pegasus": 5, "gpt2": 9}.get(family, 4)
    _, tokenizer = make(family, tmp_path / "hf", monkeypatch, pieces, seed, saved, added=HL, max_length=20)
    convert = execute("fairseq-el convert from-hf hf --out out")
    assert "el_pieces" in convert
    codec = read_codec(Path("out/pieces.json"))
    words = Dictionary.load("out/dict.txt")
    for language in _languages(family) if family == "mbart50" else ():
        words.add_symbol(f"[{language}]")
    words.add_symbol("<mask>")
    vocabulary = read_vocabulary(HFDirectory(Path("hf")), {f.tokenizer: f for f in FAMILIES}[CLASSES[family]])
    for text in MARKED:
        symbols = codec.encode(text)
        expected = tokenizer(text, add_special_tokens=False)["input_ids"]
        indices = [words.index(symbol) for symbol in symbols]
        assert [vocabulary.ids[index] for index in indices] == expected, text
        symbols = [words[index] for index in indices]  # as the model may write them, some unknown
        assert codec.decode(symbols) == tokenizer.decode(expected, skip_special_tokens=True), text
    assert "<hl>" in codec.encode(MARKED[0])


@pytest.mark.long
@pytest.mark.parametrize(("family", "number"), [("bart", 0), ("bart", 1), ("marian", 0)])
def test_a_model_that_writes_added_tokens(family, number, pieces, tmp_path, monkeypatch, execute):
    """Special ones are left out of the text by both programs, others are shown."""
    monkeypatch.chdir(tmp_path)
    tokens = byte_tokens(family) if family == "bart" else sentencepiece_tokens(pieces, family)
    settings = {"forced_bos_token_id": len(tokens) + number, "max_length": 12, "num_beams": 2, "min_length": 6}
    seed = 8 if family == "marian" else 4
    model, tokenizer = make(family, tmp_path / "hf", monkeypatch, pieces, seed, added=HL, **settings)
    pad = model.config.pad_token_id
    assert_same(execute, model, tokenizer, MARKED, bad_words_ids=[[pad]])
    assert all(text.startswith("<hl>") == (number == 0) for text in generated(model, tokenizer, MARKED))
    hypotheses = [line.split("\t")[2] for line in execute(INTERACTIVE).split("\n") if line.startswith("H-")]
    assert all(words.startswith(str(HL[number])) for words in hypotheses)


INTERACTIVE = (
    "fairseq-interactive out --path out/model.pt $(cat out/generate.args) --bpe el_pieces --el-pieces out/pieces.json "
    "< test.txt"
)


def test_mbart_with_tokens_after_its_languages(pieces, tmp_path, monkeypatch, execute):
    """Tokens that were added stand after <mask>, where fairseq's task has its languages."""
    monkeypatch.chdir(tmp_path)
    language = sentencepiece_tokens(pieces, "mbart50").index("ro_RO")
    settings = {**SPM_SETTINGS["mbart50"], "forced_bos_token_id": language}
    model, tokenizer = make("mbart50", tmp_path / "hf", monkeypatch, pieces, 4, True, added=HL[:2], **settings)
    assert_same(execute, model, tokenizer, [*TEXTS, *MARKED[:2]], bad_words_ids=[[1]])


def test_the_hub_writes_the_same(tmp_path, monkeypatch):
    """``BARTModel.sample``, which puts <s> before the source and forces it, where both programs' rules agree."""
    from fairseq.models.bart import BARTModel

    monkeypatch.chdir(tmp_path)
    settings = {"num_beams": 4, "max_length": 40, "early_stopping": True, "length_penalty": 0.0}
    model, tokenizer = make("bart", tmp_path / "hf", monkeypatch, **settings, forced_bos_token_id=0)
    from_hf(tmp_path / "hf", tmp_path / "out")
    bart = BARTModel.from_pretrained("out", "model.pt", bpe="el_pieces", el_pieces="out/pieces.json").eval()
    enable_el_attention(bart)
    expected = generated(model, tokenizer, TEXTS, bad_words_ids=[[1]])
    found = bart.sample(TEXTS, beam=4, lenpen=0.0, max_len_b=38, min_len=0)
    ended = [len(tokenizer(text)["input_ids"]) < 36 for text in expected]
    assert sum(ended) >= 3
    assert all(mine.strip() == theirs for mine, theirs, whole in zip(found, expected, ended) if whole)


@pytest.mark.long
@needs_numpy_1
def test_prompts_that_are_empty_or_have_an_end_of_text(tmp_path, monkeypatch, execute):
    """transformers begins with <|endoftext|> where a prompt has nothing, and reads one that is in a prompt."""
    monkeypatch.chdir(tmp_path)
    model, tokenizer = make("gpt2", tmp_path / "hf", monkeypatch, seed=9, max_new_tokens=6, num_beams=2)
    lines = ["he is<|endoftext|>the man<|endoftext|>", "", "a <|endoftext|> b", "<|endoftext|>in"]
    expected = generated(model, tokenizer, lines)
    interactive, _ = both_ways(execute, [line for line in lines if line])
    assert interactive == [text for text, line in zip(expected, lines) if line]
    Path("test.txt").write_text("\nhe is\n")
    assert sentences(execute(INTERACTIVE))[0] == expected[1]


def test_a_prompt_that_leaves_no_room(tmp_path, monkeypatch, execute, capsys):
    monkeypatch.chdir(tmp_path)
    make("gpt2", tmp_path / "hf", monkeypatch, max_length=5)
    execute("fairseq-el convert from-hf hf --out out")
    Path("test.txt").write_text("a red boat on the\n")
    with pytest.raises((OptionError, SystemExit), match=r"prompt must leave room for one more token|1"):
        execute(INTERACTIVE)
