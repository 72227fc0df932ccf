"""The tokens of a Hugging Face tokenizer by their ids, from its files."""

from __future__ import annotations

import re
from typing import Any, Dict, List, Optional, Tuple

from fairseq_el.conversion.hf.byte_bpe import Merge, read_merges
from fairseq_el.conversion.hf.families import Family
from fairseq_el.conversion.hf.hf_directory import HFDirectory
from fairseq_el.conversion.limits import WORDS, shown
from fairseq_el.errors import FairseqElError, summary_of

SENTENCEPIECE = {"pegasus": "spiece.model", "mbart": "sentencepiece.bpe.model"}
TOKENIZER_FILES = (
    *("vocab.json", "merges.txt", "tokenizer.json", "tokenizer_config.json", "added_tokens.json"),
    *("special_tokens_map.json", "source.spm", "target.spm", *SENTENCEPIECE.values()),
)
DICTIONARY = "dict.txt"
_SPECIALS = ["<s>", "<pad>", "</s>", "<unk>"]
_LANGUAGES_25 = (
    "ar_AR", "cs_CZ", "de_DE", "en_XX", "es_XX", "et_EE", "fi_FI", "fr_XX", "gu_IN", "hi_IN", "it_IT", "ja_XX",
    "kk_KZ", "ko_KR", "lt_LT", "lv_LV", "my_MM", "ne_NP", "nl_XX", "ro_RO", "ru_RU", "si_LK", "tr_TR", "vi_VN",
    "zh_CN",
)  # fmt: skip
_LANGUAGES_50 = (
    "af_ZA", "az_AZ", "bn_IN", "fa_IR", "he_IL", "hr_HR", "id_ID", "ka_GE", "km_KH", "mk_MK", "ml_IN", "mn_MN",
    "mr_IN", "pl_PL", "ps_AF", "pt_XX", "sv_SE", "sw_KE", "ta_IN", "te_IN", "th_TH", "tl_XX", "uk_UA", "ur_PK",
    "xh_ZA", "gl_ES", "sl_SI",
)  # fmt: skip
_LANGUAGE = re.compile(r"[a-z]{2,3}_[A-Z]{2}")


def is_language(token: str) -> bool:
    return _LANGUAGE.fullmatch(token) is not None


def read_tokens(directory: HFDirectory, family: Family) -> Dict[int, str]:
    """Tokens by id; ids need not be without gaps.

    Raises:
        FairseqElError: there are no files of a tokenizer, or they can't be read.
    """
    try:
        found = _base_tokens(directory, family)
        for token, index in directory.json("added_tokens.json").items():
            found.setdefault(_id(index), str(token))
        for index, entry in directory.json("tokenizer_config.json").get("added_tokens_decoder", {}).items():
            found.setdefault(_id(int(index)), str(entry["content"]))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise FairseqElError(
            f"the tokenizer's files in {directory.path} must be as save_pretrained writes them; {summary_of(error)}. "
            "Copy them again"
        ) from error
    return found


def _base_tokens(directory: HFDirectory, family: Family) -> Dict[int, str]:
    if directory.has("vocab.json"):
        return _by_id(directory.json("vocab.json"))
    if directory.has("tokenizer.json"):
        content = directory.json("tokenizer.json")
        vocab = content["model"]["vocab"]
        tokens = (
            _by_id(vocab) if isinstance(vocab, dict) else {index: str(entry[0]) for index, entry in enumerate(vocab)}
        )
        return {**tokens, **{_id(entry["id"]): str(entry["content"]) for entry in content.get("added_tokens") or []}}
    if directory.has(DICTIONARY):
        lines = (directory.path / DICTIONARY).read_text("utf-8").split("\n")
        words = [line.rsplit(" ", 1)[0] for line in lines if line]
        return dict(enumerate([*_SPECIALS, *(_without_brackets(word) for word in words)]))
    name = SENTENCEPIECE.get(family.model_type)
    if name is not None and directory.has(name):
        pieces = _pieces(str(directory.path / name))
        return _pegasus(pieces) if family.model_type == "pegasus" else _mbart(pieces, family)
    needed = ["vocab.json", "tokenizer.json", *([name] if name else [])]
    raise FairseqElError(
        f"{directory.path} must have the vocabulary in one of {', '.join(needed)}, because fairseq needs a dictionary; "
        "it has none. Save the tokenizer with save_pretrained in the same directory"
    )


def _by_id(vocab: Dict[str, Any]) -> Dict[int, str]:
    tokens = {_id(index): token for token, index in vocab.items()}
    if len(tokens) < len(vocab):
        again = next(token for token, index in vocab.items() if tokens[index] != token)
        raise ValueError(f"every token must have an id of its own; {again!r} has that of {tokens[vocab[again]]!r}")
    return tokens


def _id(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < WORDS:
        raise ValueError(f"ids of tokens must be whole numbers from 0 to {WORDS - 1:,}; one is {shown(value)}")
    return value


def _without_brackets(word: str) -> str:
    return word[1:-1] if word.startswith("[") and is_language(word[1:-1]) else word


def _pieces(path: str) -> List[str]:
    import sentencepiece

    try:
        model = sentencepiece.SentencePieceProcessor(model_file=path)
    except (OSError, RuntimeError) as error:
        raise FairseqElError(f"{path} must be a sentencepiece model; {error}. Copy it again") from error
    return [model.id_to_piece(index) for index in range(len(model))]


def _pegasus(pieces: List[str]) -> Dict[int, str]:
    """103 ids of the pretraining come before those of sentencepiece, whose first two are not used."""
    tokens = ["<pad>", "</s>", "<mask_1>", "<mask_2>", *(f"<unk_{i}>" for i in range(2, 103))]
    return dict(enumerate([*tokens, *pieces[2:]]))


def _mbart(pieces: List[str], family: Family) -> Dict[int, str]:
    """fairseq's special symbols, pieces without sentencepiece's own, languages, and a mask."""
    languages = (*_LANGUAGES_25, *(_LANGUAGES_50 if family.tokenizer == "MBart50Tokenizer" else ()))
    return dict(enumerate([*_SPECIALS, *pieces[3:], *languages, "<mask>"]))


def read_bpe_merges(directory: HFDirectory) -> Optional[List[Merge]]:
    """Merges of a byte-level BPE; None if it has none.

    Raises:
        FairseqElError: they are no pairs.
    """
    lines: Any = None
    try:
        if directory.has("merges.txt"):
            lines = (directory.path / "merges.txt").read_text("utf-8").split("\n")
        elif directory.has("tokenizer.json"):
            lines = directory.json("tokenizer.json").get("model", {}).get("merges")
        return None if lines is None else read_merges(lines)
    except (AttributeError, TypeError, ValueError) as error:
        raise FairseqElError(
            f"the merges of the tokenizer in {directory.path} must be pairs of symbols: {error}. Copy them again"
        ) from error


def missing_ids(tokens: Dict[int, str], vocab_size: int) -> Tuple[List[int], List[str]]:
    """Ids of the model that have no token, and tokens that the model has no row for."""
    return (
        [index for index in range(vocab_size) if index not in tokens],
        [token for index, token in sorted(tokens.items()) if index >= vocab_size],
    )
