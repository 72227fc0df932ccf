"""What a Hugging Face tokenizer does to a text, for ``pieces.json`` (``--bpe el_pieces``) and the tasks' options."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from typing import Any, Dict, List, Optional, Tuple

from fairseq_el.conversion.hf.families import GPT2, MARIAN, PEGASUS, Family
from fairseq_el.conversion.hf.hf_directory import HFDirectory
from fairseq_el.conversion.hf.tokenizer_files import SENTENCEPIECE, read_tokens
from fairseq_el.conversion.hf.vocabulary import EOS, Vocabulary
from fairseq_el.errors import FairseqElError
from fairseq_el.tokenization import AddedToken

Json = Dict[str, Any]
_NAMED = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
_USUAL = ("<s>", "</s>", "<pad>", "<unk>", "<mask>", "<|endoftext|>")
_BEYOND_GPT2 = ("dropout", "ignore_merges", "byte_fallback", "continuing_subword_prefix")  # of a model
_FLAGS = ("special", "lstrip", "rstrip", "single_word")


@dataclass
class Tokenizer:
    """
    Attributes:
        before, after: symbols that it puts around a text, by fairseq's index; None for those of languages.
        described: what ``pieces.json`` says; None if its files are not there.
        copies: files to copy: name there, name in the converted directory.
        notes: on what it does and fairseq's options do not.
    """

    before: List[int] = field(default_factory=list)
    after: List[int] = field(default_factory=list)
    described: Optional[Json] = None
    copies: List[Tuple[str, str]] = field(default_factory=list)
    notes: List[str] = field(default_factory=list)

    @property
    def template(self) -> str:
        """For ``--el-source-template``; empty where it is fairseq's own."""
        if (self.before, self.after) == ([], [EOS]):
            return ""
        return ",".join([*map(str, self.before), "X", *map(str, self.after)])


def read_tokenizer(directory: HFDirectory, family: Family, vocabulary: Vocabulary, spm: str) -> Tokenizer:
    """
    Args:
        spm: the name that a sentencepiece model gets.

    Raises:
        FairseqElError: its files are not as ``save_pretrained`` writes them.
    """
    try:
        return _read(directory, family, vocabulary, spm)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise FairseqElError(
            f"the tokenizer's files in {directory.path} must be as save_pretrained writes them; "
            f"{type(error).__name__}: {error}. Copy them again"
        ) from error


def _read(directory: HFDirectory, family: Family, vocabulary: Vocabulary, spm: str) -> Tokenizer:
    settings, fast = directory.json("tokenizer_config.json"), directory.json("tokenizer.json")
    tokenizer = Tokenizer()
    before, after = _template(settings, fast, family)
    ids = {token: index for index, token in read_tokens(directory, family).items()}
    symbols = _Symbols(ids, vocabulary)
    tokenizer.before, tokenizer.after = symbols.indices(before), symbols.indices(after)
    added = [
        AddedToken(token, symbol, *(bool(flags.get(name, False)) for name in _FLAGS))
        for token, flags in _added(directory, settings, fast, ids).items()
        for symbol in [symbols.get(token)]
        if token and symbol is not None
    ]
    marian = family is MARIAN or str(settings.get("tokenizer_class")) == MARIAN.tokenizer
    if marian:  # its tokenizer, which is in Python, knows special tokens by what they are named for
        named = [_content(value) for value in _named_special(directory, settings)]
        added = [replace(token, special=token.token in named or token.token in _USUAL) for token in added]
    described: Json = {"added": [token.as_json() for token in added]}
    clean_up = settings.get("clean_up_tokenization_spaces") is True and not family.byte_bpe
    model = next((name for name in ("source.spm", *SENTENCEPIECE.values()) if directory.has(name)), None)
    if model is not None:
        tokenizer.copies.append((model, spm))
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
        tokenizer.copies.append(("tokenizer.json", "tokenizer.json"))
    elif model is not None:
        described.update(kind="sentencepiece", model=spm, marian=marian, clean_up=clean_up)
    else:
        return tokenizer
    tokenizer.described = described
    return tokenizer


class _Symbols:
    """fairseq's symbols of Hugging Face's tokens."""

    def __init__(self, ids: Dict[str, int], vocabulary: Vocabulary):
        index_of = {row: index for index, row in enumerate(vocabulary.ids) if row is not None}
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
                f"the tokenizer puts {', '.join(map(repr, missing))} around a text, which the model has not"
            )
        return [self._indices[token] for token in tokens]


def _added(directory: HFDirectory, settings: Json, fast: Json, ids: Dict[str, int]) -> Dict[str, Json]:
    """Added tokens with their flags; a later source adds what the earlier do not have."""
    found: Dict[str, Json] = {str(entry["content"]): entry for entry in fast.get("added_tokens") or []}
    for entry in (settings.get("added_tokens_decoder") or {}).values():
        found.setdefault(str(entry["content"]), entry)
    for value in _named_special(directory, settings):
        entry = value if isinstance(value, dict) else {"content": value}
        if isinstance(entry.get("content"), str):
            found.setdefault(entry["content"], {**entry, "special": True})
    for token in directory.json("added_tokens.json"):
        found.setdefault(token, {"special": False})
    for token in _USUAL:  # what the tokenizers' classes add where the files do not say it
        if token in ids:
            found.setdefault(token, {"special": True, "lstrip": token == "<mask>"})
    found.update((token, {"special": True}) for token in ids if _is_reserved(token) and token not in found)
    return found


def _named_special(directory: HFDirectory, settings: Json) -> List[Any]:
    """Tokens, or descriptions of them, that the files name for a part that they play."""
    named = {**directory.json("special_tokens_map.json"), **settings}
    special = [named.get(name) for name in _NAMED]
    for name in ("additional_special_tokens", "extra_special_tokens"):
        more = named.get(name) or []
        special.extend(more.values() if isinstance(more, dict) else more)
    return special


def _is_reserved(token: str) -> bool:
    """Pegasus' symbols of its pretraining."""
    return token.startswith(("<unk_", "<mask_")) and token.endswith(">")


def _template(settings: Json, fast: Json, family: Family) -> Tuple[List[str], List[str]]:
    """Tokens before and after a text. The classes of some families have their own, whatever the files say."""
    if family.languages:
        return [], []
    name = str(settings.get("tokenizer_class") or family.tokenizer).replace("Fast", "")
    if name in ("BartTokenizer", "RobertaTokenizer"):
        cls, sep = (_content(settings.get(key)) for key in ("cls_token", "sep_token"))
        return [cls or "<s>"], [sep or "</s>"]
    if family in (MARIAN, PEGASUS) or name == MARIAN.tokenizer:
        return [], [_content(settings.get("eos_token")) or "</s>"]
    if "add_bos_token" in settings or "add_eos_token" in settings:
        default = "<|endoftext|>" if family is GPT2 else None
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
    """Whether a ``tokenizer.json`` does no more than GPT-2's BPE, or there is none."""
    if not fast:
        return True
    model, splitting = fast["model"], fast.get("pre_tokenizer") or {}
    plain = fast.get("normalizer") is None and splitting.get("type") == "ByteLevel"
    return (
        plain
        and splitting.get("use_regex", True) is True
        and not any(
            model.get(name) for name in ("dropout", "ignore_merges", "byte_fallback", "continuing_subword_prefix")
        )
    )


def _prefix_space(settings: Json, fast: Json) -> bool:
    if "add_prefix_space" in settings:
        return settings["add_prefix_space"] is True
    return (fast.get("pre_tokenizer") or {}).get("add_prefix_space") is True


def written(described: Json) -> str:
    """``pieces.json``."""
    return json.dumps(described, indent=1, ensure_ascii=False) + "\n"
