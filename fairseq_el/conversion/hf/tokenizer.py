"""Converts a tokenizer: Hugging Face's files to those of ``--bpe el_pieces`` and fairseq's own, and back."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Dict, List, Optional, Tuple, Union

from fairseq_el.conversion.hf.families import BART, GPT2, M2M100, MARIAN, NLLB200, PEGASUS, Family
from fairseq_el.conversion.hf.hf_directory import HFDirectory, json_text
from fairseq_el.conversion.hf.languages import M2M_LANGUAGES
from fairseq_el.conversion.hf.tokenizer_files import (
    DICTIONARY,
    END_OF_TEXT,
    ORIGINALS,
    SENTENCEPIECE,
    SENTENCEPIECE_MODEL,
    TOKENIZER_FILES,
    encoder_of,
    merges_text,
    read_merges,
    read_tokens,
    refused_files,
)
from fairseq_el.conversion.hf.vocabulary import EOS, Vocabulary
from fairseq_el.errors import FairseqElError
from fairseq_el.files import read_json, read_text
from fairseq_el.tokenization import DESCRIPTION, AddedToken

Json = Dict[str, Any]
Files = Dict[str, Union[str, Path]]
_NAMED = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
_USUAL = ("<s>", "</s>", "<pad>", "<unk>", "<mask>", END_OF_TEXT)
_BEYOND_GPT2 = ("dropout", "ignore_merges", "byte_fallback", "continuing_subword_prefix")  # of a model
_SENTENCEPIECE_NAMES = (SENTENCEPIECE_MODEL, "spm.model", "sentencepiece.model")  # beside fairseq's checkpoints
_FLAGS = ("special", "lstrip", "rstrip", "single_word")


@dataclass
class Tokenizer:
    """Holds a tokenizer as the other program has it.

    Attributes:
        files: their names, each with the text to write, or the path of a file to copy.
        before, after: symbols that it puts around a text, by fairseq's index; none where the task puts languages.
        notes: differences from the other program's.
    """

    files: Files = field(default_factory=dict)
    before: List[int] = field(default_factory=list)
    after: List[int] = field(default_factory=list)
    notes: List[str] = field(default_factory=list)

    def write(self, directory: Path) -> None:
        for name, content in self.files.items():
            if isinstance(content, Path):
                shutil.copyfile(content, directory / name)
            else:
                (directory / name).write_bytes(content.encode("utf-8"))

    @property
    def template(self) -> str:
        """The value of ``--el-source-template``; empty where fairseq does the same without it."""
        if (self.before, self.after) == ([], [EOS]):
            return ""
        return ",".join([*map(str, self.before), "X", *map(str, self.after)])


def fairseq_tokenizer(directory: HFDirectory, family: Family, vocabulary: Vocabulary) -> Tokenizer:
    """Makes fairseq's tokenizer of Hugging Face's files.

    Raises:
        FairseqElError: the files are not as ``save_pretrained`` writes them.
    """
    with refused_files(directory):
        return _fairseq_tokenizer(directory, family, vocabulary)


def _fairseq_tokenizer(directory: HFDirectory, family: Family, vocabulary: Vocabulary) -> Tokenizer:
    settings, fast = directory.json("tokenizer_config.json"), directory.json("tokenizer.json")
    ids = {token: index for index, token in read_tokens(directory, family).items()}
    symbols = _Symbols(ids, vocabulary)
    before, after = (symbols.indices(tokens) for tokens in _template(settings, fast, family))
    tokenizer = Tokenizer({}, before, after)
    if family is NLLB200 and settings.get("legacy_behaviour") is True:
        tokenizer.notes.append(
            "legacy_behaviour is True: transformers reads a text X as X </s> LANGUAGE, fairseq as LANGUAGE X </s>, "
            "with which the model was trained. Set it to false in tokenizer_config.json for the same text"
        )
    if vocabulary.merges is not None:
        tokenizer.files["encoder.json"] = json.dumps(encoder_of(vocabulary.merges))
        tokenizer.files["vocab.bpe"] = merges_text(vocabulary.merges)
    model = next((name for name in ("source.spm", *SENTENCEPIECE.values()) if directory.has(name)), None)
    if model is not None:
        tokenizer.files[SENTENCEPIECE_MODEL] = directory.path / model
    added = _added_tokens(directory, settings, fast, family, symbols)
    described: Json = {"added": [token.as_json() for token in added]}
    clean_up = settings.get("clean_up_tokenization_spaces") is True and not family.byte_bpe
    if vocabulary.merges is not None and _is_gpt2(fast):
        described.update(
            kind="gpt2", encoder="encoder.json", vocab="vocab.bpe", prefix_space=_prefix_space(settings, fast)
        )
        known = {token.symbol for token in added}
        described["others"] = {
            symbol: token for token, symbol in symbols.all() if not symbol.isdecimal() and symbol not in known
        }
    elif fast:
        renamed = {token: symbol for token, symbol in symbols.all() if token != symbol}
        described.update(kind="tokenizers", file="tokenizer.json", renamed=renamed, clean_up=clean_up)
        tokenizer.files["tokenizer.json"] = directory.path / "tokenizer.json"
    elif model is not None:
        marian = _is_marian(settings, family)
        described.update(kind="sentencepiece", model=SENTENCEPIECE_MODEL, marian=marian, clean_up=clean_up)
        if family is M2M100:  # transformers has no fast tokenizer for it, and sentencepiece leaves white space out
            described["strip"] = True
    else:
        return tokenizer
    tokenizer.files[DESCRIPTION] = json.dumps(described, indent=1, ensure_ascii=False) + "\n"
    return tokenizer


def _added_tokens(
    directory: HFDirectory, settings: Json, fast: Json, family: Family, symbols: _Symbols
) -> List[AddedToken]:
    """Lists the added tokens that the model has."""
    added = [
        AddedToken(token, symbol, *(bool(flags.get(name, False)) for name in _FLAGS))
        for token, flags in _added(directory, settings, fast, symbols.ids).items()
        for symbol in [symbols.get(token)]
        if token and symbol is not None
    ]
    if not _is_marian(settings, family) and family is not M2M100:
        return added
    # Their tokenizers have no tokenizer.json: special tokens are those that the files name for a use.
    named = [_content(value) for value in _named_special(directory, settings)]
    return [replace(token, special=token.token in named or token.token in _USUAL) for token in added]


def _is_marian(settings: Json, family: Family) -> bool:
    return family is MARIAN or str(settings.get("tokenizer_class")) == MARIAN.tokenizer


class _Symbols:
    """Finds fairseq's symbols of Hugging Face's tokens."""

    def __init__(self, ids: Dict[str, int], vocabulary: Vocabulary):
        self.ids = ids
        index_of = vocabulary.index_of
        self._indices = {token: index_of[index] for token, index in ids.items() if index in index_of}
        self._symbols = vocabulary.symbols

    def get(self, token: str) -> Optional[str]:
        index = self._indices.get(token)
        return None if index is None else self._symbols[index]

    def all(self) -> List[Tuple[str, str]]:
        return [(token, self._symbols[index]) for token, index in self._indices.items()]

    def indices(self, tokens: List[str]) -> List[int]:
        missing = [token for token in tokens if token not in self._indices]
        if missing:
            raise ValueError(
                f"the tokenizer puts {', '.join(map(repr, missing))} around a text, which the model does not have"
            )
        return [self._indices[token] for token in tokens]


def _added(directory: HFDirectory, settings: Json, fast: Json, ids: Dict[str, int]) -> Dict[str, Json]:
    """Lists added tokens with their flags; a later source adds what the earlier ones do not have."""
    found: Dict[str, Json] = {str(entry["content"]): entry for entry in fast.get("added_tokens") or []}
    for entry in (settings.get("added_tokens_decoder") or {}).values():
        found.setdefault(str(entry["content"]), entry)
    for value in _named_special(directory, settings):
        entry = value if isinstance(value, dict) else {"content": value}
        if isinstance(entry.get("content"), str):
            found.setdefault(entry["content"], {**entry, "special": True})
    for token in directory.json("added_tokens.json"):
        found.setdefault(token, {"special": False})
    for token in _USUAL:  # the tokenizers' classes add these where the files do not name them
        if token in ids:
            found.setdefault(token, {"special": True, "lstrip": token == "<mask>"})
    found.update((token, {"special": True}) for token in ids if _is_reserved(token) and token not in found)
    return found


def _named_special(directory: HFDirectory, settings: Json) -> List[Any]:
    """Lists tokens, or descriptions of them, that the files name for a use, such as the eos."""
    named = {**directory.json("special_tokens_map.json"), **settings}
    special = [named.get(name) for name in _NAMED]
    for name in ("additional_special_tokens", "extra_special_tokens"):
        more = named.get(name) or []
        special.extend(more.values() if isinstance(more, dict) else more)
    return special


def _is_reserved(token: str) -> bool:
    """Returns whether a token is one of those that Pegasus has from its pretraining."""
    return token.startswith(("<unk_", "<mask_")) and token.endswith(">")


def _template(settings: Json, fast: Json, family: Family) -> Tuple[List[str], List[str]]:
    """Lists the tokens before and after a text. Some families' classes have their own, whatever the files say."""
    if family.languages is not None:
        return [], []
    name = str(settings.get("tokenizer_class") or family.tokenizer).replace("Fast", "")
    if name in ("BartTokenizer", "RobertaTokenizer"):
        cls, sep = (_content(settings.get(key)) for key in ("cls_token", "sep_token"))
        return [cls or "<s>"], [sep or "</s>"]
    if family in (MARIAN, PEGASUS) or name == MARIAN.tokenizer:
        return [], [_content(settings.get("eos_token")) or "</s>"]
    if "add_bos_token" in settings or "add_eos_token" in settings:
        default = END_OF_TEXT if family is GPT2 else None
        sides = (("add_bos_token", "bos_token"), ("add_eos_token", "eos_token"))
        before, after = (
            [_content(settings.get(token)) or str(default)] if settings.get(flag) else [] for flag, token in sides
        )
        return before, after
    return _post_processor(fast.get("post_processor"))


def _content(value: Any) -> Optional[str]:
    return value.get("content") if isinstance(value, dict) else value


def _post_processor(processor: Optional[Json]) -> Tuple[List[str], List[str]]:
    if not processor or processor["type"] == "ByteLevel":
        return [], []
    if processor["type"] == "Sequence":
        parts = [_post_processor(part) for part in processor["processors"]]
        return next((part for part in parts if part != ([], [])), ([], []))
    if processor["type"] in ("RobertaProcessing", "BertProcessing"):
        return [processor["cls"][0]], [processor["sep"][0]]
    if processor["type"] != "TemplateProcessing":
        raise ValueError(f"its post_processor is a {processor['type']}, which is not known")
    sides: Tuple[List[str], List[str]] = ([], [])
    side = 0
    for part in processor["single"]:
        if "Sequence" in part:
            side = 1
        else:
            sides[side].extend(processor["special_tokens"][part["SpecialToken"]["id"]]["tokens"])
    return sides


def _is_gpt2(fast: Json) -> bool:
    """Returns whether a ``tokenizer.json`` does no more than GPT-2's BPE, or there is none."""
    if not fast:
        return True
    model, splitting = fast["model"], fast.get("pre_tokenizer") or {}
    plain = fast.get("normalizer") is None and splitting.get("type") == "ByteLevel"
    return plain and splitting.get("use_regex", True) is True and not any(model.get(name) for name in _BEYOND_GPT2)


def _prefix_space(settings: Json, fast: Json) -> bool:
    if "add_prefix_space" in settings:
        return settings["add_prefix_space"] is True
    return (fast.get("pre_tokenizer") or {}).get("add_prefix_space") is True


def hf_tokenizer(directory: Path, family: Family, vocabulary: Vocabulary, begin: bool) -> Tokenizer:
    """Makes Hugging Face's tokenizer of the files beside fairseq's dictionary.

    The model's own files are taken if it came from Hugging Face.

    Args:
        directory: of the dictionary.
        begin: a text begins with ``<s>``.

    Raises:
        FairseqElError: GPT-2's merges or ``encoder.json`` can't be read.
    """
    originals = {name: directory / ORIGINALS / name for name in TOKENIZER_FILES}
    files: Files = {name: path for name, path in originals.items() if path.is_file()}
    if files:
        return Tokenizer(files)
    if family.byte_bpe and os.path.lexists(directory / "vocab.bpe"):
        return _hf_byte_bpe(directory, family, vocabulary, begin)
    return _hf_sentencepiece(directory, family, vocabulary, begin)


def _hf_byte_bpe(directory: Path, family: Family, vocabulary: Vocabulary, begin: bool) -> Tokenizer:
    path = directory / "vocab.bpe"
    text = read_text(path, f"{path.name} must be GPT-2's merges")
    try:
        read_merges(text.split("\n"))
    except ValueError as error:
        raise FairseqElError(f"{path} must be GPT-2's merges, pairs of symbols; {error}. Copy it again") from error
    tokens = {str(index): token for token, index in read_json(directory / "encoder.json").items()}
    named = {tokens.get(symbol, symbol): index for index, symbol in enumerate(vocabulary.symbols)}
    special: Json = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
    if "<mask>" in named and not family.decoder_only:
        special["mask_token"] = "<mask>"
    if not begin:  # BartTokenizer would put <s> before a text
        special["tokenizer_class"] = GPT2.tokenizer
        special["add_bos_token"], special["add_eos_token"] = family.decoder_only, not family.decoder_only
    if family.decoder_only:  # fairseq's prompts begin with the eos
        special["bos_token"] = "</s>"
    settings = {"tokenizer_class": family.tokenizer, **special}
    tokenizer = Tokenizer(
        {"vocab.json": json_text(named), "merges.txt": text, "tokenizer_config.json": json_text(settings)}
    )
    if family is BART:
        fed = "<s> X </s>, as fairseq's hub feeds a text X" if begin else "X </s>, as fairseq-generate feeds a text X"
        other = "" if begin else "; for a model that reads <s> X </s>, give --begin"
        tokenizer.notes.append(f"the tokenizer gives {fed}{other}")
    return tokenizer


def _hf_sentencepiece(directory: Path, family: Family, vocabulary: Vocabulary, begin: bool) -> Tokenizer:
    model = next((directory / name for name in _SENTENCEPIECE_NAMES if (directory / name).is_file()), None)
    if model is None or family.decoder_only or begin:
        note = (
            f"the tokenizer is not known, so none was written; {DICTIONARY} has the tokens in the order of their ids, "
            "from 4 on, after <s> <pad> </s> <unk>"
        )
        return Tokenizer(notes=[note])
    files: Files
    if family is M2M100:
        return _hf_m2m(model, family, vocabulary)
    if family.languages is not None:
        files = {
            SENTENCEPIECE[family.model_type]: model,
            "tokenizer_config.json": json_text({"tokenizer_class": family.tokenizer}),
        }
        note = f"check that {family.tokenizer} gives the ids of {DICTIONARY}: it has an order of its own"
        return Tokenizer(files, notes=[note])
    # Marian's is the one that looks pieces up in a dictionary, as fairseq does, and gives X </s>.
    files = {
        "vocab.json": json_text({symbol: index for index, symbol in enumerate(vocabulary.symbols)}),
        "source.spm": model,
        "target.spm": model,
        "tokenizer_config.json": json_text({"tokenizer_class": MARIAN.tokenizer}),
    }
    note = f"{MARIAN.tokenizer} normalises punctuation where the package sacremoses is installed; fairseq does not"
    return Tokenizer(files, notes=[note])


def _hf_m2m(model: Path, family: Family, vocabulary: Vocabulary) -> Tokenizer:
    """Makes M2M100Tokenizer's files, whose class puts one of its lists of languages behind ``vocab.json``."""
    first = vocabulary.symbols.index(f"__{vocabulary.languages[0]}__")
    end = first + len(vocabulary.languages)
    in_place = vocabulary.symbols[first:end] == [f"__{language}__" for language in vocabulary.languages]
    codes = [name for name, languages in M2M_LANGUAGES.items() if list(languages) == vocabulary.languages]
    if not in_place or not codes:
        known = " or ".join(f"the {len(languages)} of {name}" for name, languages in M2M_LANGUAGES.items())
        note = (
            f"no tokenizer was written: {family.tokenizer} has languages of its own, {known}, right behind the words. "
            f"{DICTIONARY} has the tokens in the order of their ids, from 4 on, after <s> <pad> </s> <unk>"
        )
        return Tokenizer(notes=[note])
    settings = {
        "tokenizer_class": family.tokenizer,
        "language_codes": codes[0],
        "num_madeup_words": len(vocabulary.symbols) - end,
        "additional_special_tokens": vocabulary.symbols[first:end],
    }
    words = {symbol: index for index, symbol in enumerate(vocabulary.symbols[:first])}
    files: Files = {
        "vocab.json": json_text(words),
        SENTENCEPIECE[family.model_type]: model,
        "tokenizer_config.json": json_text(settings),
    }
    return Tokenizer(files)
