"""Files of tokenizers: the tokens of Hugging Face's by their ids, and byte-level BPE in both programs' form.

GPT-2's byte-level BPE is ``encoder.json`` and ``vocab.bpe`` for fairseq, ``vocab.json`` and ``merges.txt`` for Hugging
Face.
"""

from __future__ import annotations

import contextlib
from typing import Any, Dict, Iterable, Iterator, List, Optional, Tuple

from fairseq_el.conversion.hf.families import M2M100, Family
from fairseq_el.conversion.hf.hf_directory import HFDirectory
from fairseq_el.conversion.hf.languages import M2M_LANGUAGES, MBART_25, MBART_50, NLLB_LANGUAGES
from fairseq_el.conversion.limits import WORDS, shown
from fairseq_el.errors import FairseqElError, summary_of

_FAIRSEQS_MODEL = "sentencepiece.bpe.model"  # fairseq's hub looks for this name
SENTENCEPIECE = {"pegasus": "spiece.model", "mbart": _FAIRSEQS_MODEL, "m2m_100": _FAIRSEQS_MODEL}
TOKENIZER_FILES = (
    *("vocab.json", "merges.txt", "tokenizer.json", "tokenizer_config.json", "added_tokens.json"),
    *("special_tokens_map.json", "source.spm", "target.spm", *dict.fromkeys(SENTENCEPIECE.values())),
)
# Names in the directory of a fairseq model.
MODEL, DICTIONARY, OPTIONS, LANGUAGES = "model.pt", "dict.txt", "generate.args", "langs.txt"
SENTENCEPIECE_MODEL = _FAIRSEQS_MODEL
ORIGINALS = "hf"  # Hugging Face's own configuration and tokenizer, for the way back
SPECIAL_SYMBOLS = ("<s>", "<pad>", "</s>", "<unk>")  # of every dictionary of fairseq
END_OF_TEXT = "<|endoftext|>"
Merge = Tuple[str, str]
_MERGES_HEADER = "#version: 0.2"


def read_tokens(directory: HFDirectory, family: Family) -> Dict[int, str]:
    """Reads tokens by id; ids may have gaps.

    Raises:
        FairseqElError: there are no files of a tokenizer, or they can't be read.
    """
    with refused_files(directory):
        found = _base_tokens(directory, family)
        for token, index in directory.json("added_tokens.json").items():
            found.setdefault(_id(index), str(token))
        for index, entry in directory.json("tokenizer_config.json").get("added_tokens_decoder", {}).items():
            found.setdefault(_id(int(index)), str(entry["content"]))
    return found


@contextlib.contextmanager
def refused_files(directory: HFDirectory) -> Iterator[None]:
    """Makes one message of whatever goes wrong when a tokenizer's files have other content than expected.

    Raises:
        FairseqElError: something went wrong.
    """
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise FairseqElError(
            f"the tokenizer's files in {directory.path} must be as save_pretrained writes them; {summary_of(error)}. "
            "Copy them again"
        ) from error


def _base_tokens(directory: HFDirectory, family: Family) -> Dict[int, str]:
    if directory.has("vocab.json"):
        tokens = _by_id(directory.json("vocab.json"))
        return {**tokens, **_languages_after(directory, len(tokens))} if family is M2M100 else tokens
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
        if family.languages is not None:
            words = [family.languages.token_of(word) for word in words]
        return dict(enumerate([*SPECIAL_SYMBOLS, *words]))
    name = SENTENCEPIECE.get(family.model_type)
    if name is not None and directory.has(name):
        pieces = _pieces(str(directory.path / name))
        return _pegasus(pieces) if family.model_type == "pegasus" else _multilingual(pieces, family)
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


def _languages_after(directory: HFDirectory, size: int) -> Dict[int, str]:
    """Lists the tokens that M2M100Tokenizer puts behind those of ``vocab.json``, by their ids."""
    codes = directory.json("tokenizer_config.json").get("language_codes") or "m2m100"
    if codes not in M2M_LANGUAGES:
        raise ValueError(f"language_codes must be one of {', '.join(M2M_LANGUAGES)}; it is {shown(codes)}")
    return {size + number: f"__{language}__" for number, language in enumerate(M2M_LANGUAGES[codes])}


def _pieces(path: str) -> List[str]:
    import sentencepiece

    try:
        model = sentencepiece.SentencePieceProcessor(model_file=path)
    except (OSError, RuntimeError) as error:
        raise FairseqElError(f"{path} must be a sentencepiece model; {error}. Copy it again") from error
    return [model.id_to_piece(index) for index in range(len(model))]


def _pegasus(pieces: List[str]) -> Dict[int, str]:
    """Puts 103 ids of the pretraining before the pieces of sentencepiece, without its first two."""
    tokens = ["<pad>", "</s>", "<mask_1>", "<mask_2>", *(f"<unk_{i}>" for i in range(2, 103))]
    return dict(enumerate([*tokens, *pieces[2:]]))


def _multilingual(pieces: List[str], family: Family) -> Dict[int, str]:
    """Orders fairseq's special symbols, pieces without sentencepiece's own, languages, and a mask."""
    known = {"MBartTokenizer": MBART_25, "MBart50Tokenizer": MBART_50, "NllbTokenizer": NLLB_LANGUAGES}
    return dict(enumerate([*SPECIAL_SYMBOLS, *pieces[3:], *known[family.tokenizer], "<mask>"]))


def read_bpe_merges(directory: HFDirectory) -> Optional[List[Merge]]:
    """Reads the merges of a byte-level BPE; None if there are none.

    Raises:
        FairseqElError: they are not pairs of symbols.
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


def byte_symbols() -> List[str]:
    """Lists the characters that stand for bytes, in the order of their ids: first those that can be printed."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = range(256 - len(printable))
    return [chr(byte) for byte in printable] + [chr(256 + i) for i in others]


def encoder_of(merges: Iterable[Merge]) -> Dict[str, int]:
    """Makes ``encoder.json``: ids of bytes, of merges in their order, and of the end of text."""
    symbols = [*byte_symbols(), *("".join(pair) for pair in merges), END_OF_TEXT]
    return {symbol: index for index, symbol in enumerate(symbols)}


def read_merges(lines: Iterable[Any]) -> List[Merge]:
    """Reads the merges of ``merges.txt`` (lines) or ``tokenizer.json`` (strings, or pairs of strings).

    Raises:
        ValueError: one of them is not a pair of symbols.
    """
    merges: List[Merge] = []
    for line in lines:
        if isinstance(line, str):
            line = line.rstrip("\r\n")
            if not line or (line.startswith("#version") and not merges):
                continue
            line = line.split(" ")
        if len(line) != 2:
            raise ValueError(f"a merge must be two symbols; one is {line!r}")
        merges.append((str(line[0]), str(line[1])))
    return merges


def merges_text(merges: Iterable[Merge]) -> str:
    """Makes ``vocab.bpe``, which is Hugging Face's ``merges.txt`` too."""
    return "\n".join([_MERGES_HEADER, *(" ".join(pair) for pair in merges), ""])
