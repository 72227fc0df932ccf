"""The symbols of fairseq's dictionary in their order, and the row of Hugging Face's embedding for each."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Dict, List, Optional, Tuple

from fairseq.data import Dictionary

from fairseq_el.conversion.hf.families import MBART25, Family
from fairseq_el.conversion.hf.hf_directory import HFDirectory
from fairseq_el.conversion.hf.languages import LanguageTokens
from fairseq_el.conversion.hf.tokenizer_files import (
    DICTIONARY,
    SPECIAL_SYMBOLS,
    Merge,
    encoder_of,
    read_bpe_merges,
    read_tokens,
)
from fairseq_el.conversion.limits import shown
from fairseq_el.errors import FairseqElError

BOS, PAD, EOS, UNK = range(4)  # indices in every dictionary of fairseq


@dataclass
class Vocabulary:
    """Holds the symbols in fairseq's order, and the id of each for Hugging Face.

    Attributes:
        symbols: of fairseq's dictionary, special ones first.
        ids: Hugging Face's, of each symbol; None for a symbol that its model does not have.
        start: the decoder's first symbol, by fairseq's index.
        languages: of multilingual models, in the order of their symbols.
        added: how many symbols at the end the task adds to the dictionary (mBART: languages and ``<mask>``).
        counts: how often each symbol was seen, for the dictionary; empty where it is not known.
        merges: of byte-level BPE; None for other tokenizers.
        notes: differences between fairseq's dictionary and the tokenizer.
    """

    symbols: List[str]
    ids: List[Optional[int]]
    start: int
    languages: List[str] = field(default_factory=list)
    added: int = 0
    counts: List[int] = field(default_factory=list)
    merges: Optional[List[Merge]] = None
    notes: List[str] = field(default_factory=list)

    @property
    def is_identity(self) -> bool:
        """True where both programs have the same ids."""
        return self.ids == list(range(len(self.ids)))

    @property
    def index_of(self) -> Dict[int, int]:
        """Indices in fairseq's dictionary by Hugging Face's ids."""
        return dict(zip(self.present_ids, self.present))

    @property
    def present(self) -> List[int]:
        """Indices of the symbols that Hugging Face's model has."""
        return [index for index, row in enumerate(self.ids) if row is not None]

    @property
    def present_ids(self) -> List[int]:
        """Hugging Face's ids of :attr:`present`."""
        return [row for row in self.ids if row is not None]

    @property
    def absent(self) -> List[int]:
        """Indices of the symbols that Hugging Face's model does not have."""
        return [index for index, row in enumerate(self.ids) if row is None]

    def dictionary(self) -> Dictionary:
        """Makes fairseq's dictionary, with the symbols that its task adds."""
        words = Dictionary()
        for symbol in self.symbols[len(SPECIAL_SYMBOLS) :]:
            words.add_symbol(symbol)
        return words

    def dictionary_text(self, with_added: bool) -> str:
        """Makes ``dict.txt``: a line for each symbol and its count, without special symbols.

        Args:
            with_added: write lines for the symbols that the task adds to the dictionary, too.
        """
        counts = self.counts or [1] * len(self.symbols)
        end = None if with_added or not self.added else -self.added
        pairs = list(zip(self.symbols, counts))[len(SPECIAL_SYMBOLS) : end]
        return "".join(f"{symbol} {count}\n" for symbol, count in pairs)

    def hf_special_ids(self, family: Family) -> Dict[str, Any]:
        """Returns the ids of special tokens for ``config.json`` and ``generation_config.json``."""
        bos = self.ids[EOS if family.decoder_only or self.ids[BOS] is None else BOS]
        found = {"bos_token_id": bos, "pad_token_id": self.ids[PAD], "eos_token_id": self.ids[EOS]}
        if not family.decoder_only and family is not MBART25:
            found["decoder_start_token_id"] = self.ids[self.start]
        return found


def read_vocabulary(directory: HFDirectory, family: Family) -> Vocabulary:
    """Reads the vocabulary of a directory whose configuration has no problems.

    Raises:
        FairseqElError: it can't be read, or does not match the model; every mismatch is named.
    """
    config = directory.config
    tokens = read_tokens(directory, family)
    notes = []
    size = config["vocab_size"]
    absent = [index for index in range(size) if index not in tokens]
    beyond = [token for index, token in sorted(tokens.items()) if index >= size]
    if len(beyond) > (1 if beyond == ["<mask>"] else 0):
        raise FairseqElError(
            f"the tokenizer must not have more tokens than the model has rows, vocab_size {size}; in "
            f"{directory.path} it has {len(beyond)} more: {', '.join(map(repr, beyond[:5]))}. Copy the tokenizer of "
            "this model"
        )
    if beyond:
        notes.append("the tokenizer's <mask> has no row in the model, and is left out of the dictionary")
    if absent:
        notes.append(f"{len(absent)} rows of the embedding have no token; their symbols are madeupword...")
    merges = read_bpe_merges(directory) if family.byte_bpe else None
    encoder = encoder_of(merges) if merges is not None else {}
    words = {i: _word(token, encoder) for i, token in tokens.items() if i < size}
    _pad_words(words, absent)
    special = _special_ids(config, tokens, family)
    rest = [i for i in range(size) if i not in special]
    languages: Dict[int, str] = {}
    if family.languages is not None:
        rest, languages = _languages(rest, words, family.languages, directory.path)
        words.update({i: family.languages.symbol_of(language) for i, language in languages.items()})
    symbols = [*SPECIAL_SYMBOLS, *(words[i] for i in rest)]
    renamed = _make_writable(symbols)
    if renamed:
        notes.append(f"{renamed} tokens have white space in them, or are there twice; their symbols are <token...>")
    ids = [*special, *rest]
    counts = _read_counts(directory.path, symbols)
    added = len(languages) + 1 if family.languages is not None and family.languages.added else 0
    start = _start(ids, config, family)
    return Vocabulary(symbols, ids, start, list(languages.values()), added, counts, merges, notes)


def _word(token: str, encoder: Dict[str, int]) -> str:
    """Returns the symbol of a token. For byte-level BPE it is the id in GPT-2's own files."""
    return str(encoder[token]) if token in encoder else token


def _pad_words(words: Dict[int, str], absent: List[int]) -> None:
    taken, number = set(words.values()), 0
    for index in absent:
        while f"madeupword{number:04d}" in taken:
            number += 1
        words[index] = f"madeupword{number:04d}"
        number += 1


def _special_ids(config: Dict[str, Any], tokens: Dict[int, str], family: Family) -> List[Optional[int]]:
    """Finds the ids of fairseq's four special symbols, by what the model does with them, and else by their names."""
    by_name = {token: index for index, token in tokens.items() if index < config["vocab_size"]}
    eos = config.get("eos_token_id", family.eos)
    pad = config.get("pad_token_id")
    if pad is None or pad == eos:
        pad = by_name.get("<pad>")
    found: List[Optional[int]] = [by_name.get("<s>"), pad, eos, by_name.get("<unk>")]
    wrong = [i for i in found if i is not None and not 0 <= i < config["vocab_size"]]
    if wrong:
        raise FairseqElError(
            f"ids of special tokens must be below vocab_size {config['vocab_size']}; config.json has {shown(wrong[0])}"
            ". Copy the config.json of this model"
        )
    for position in (BOS, UNK):  # a token with two uses keeps the more important one
        if found[position] in (found[PAD], found[EOS]):
            found[position] = None
    return found


def _make_writable(symbols: List[str]) -> int:
    """Renames symbols that a line of ``dict.txt`` can't hold, or that are there already. Returns how many."""
    taken = set(SPECIAL_SYMBOLS)
    renamed = 0
    for index in range(len(SPECIAL_SYMBOLS), len(symbols)):
        if symbols[index] in taken or len(symbols[index].split()) != 1 or symbols[index].split()[0] != symbols[index]:
            symbols[index] = f"<token{index}>"
            renamed += 1
        taken.add(symbols[index])
    return renamed


def _start(ids: List[Optional[int]], config: Dict[str, Any], family: Family) -> int:
    """Returns the index of the symbol that decoding begins with."""
    if family.decoder_only or family.tokenizer == "MBartTokenizer":  # mBART-25's is the target language
        return EOS
    default = 2 if family.position_offset or family.same_sinusoids else config.get("pad_token_id")
    start = config.get("decoder_start_token_id", default)
    if start not in ids:
        raise FairseqElError(
            f"decoder_start_token_id must be one of the model's {len(ids)} tokens; it is {shown(start)}. "
            "Copy the config.json of this model"
        )
    return ids.index(start)


def _languages(
    order: List[int], words: Dict[int, str], tokens: LanguageTokens, path: Path
) -> Tuple[List[int], Dict[int, str]]:
    """Returns ids in fairseq's order, and the languages by their ids.

    Where fairseq's task adds languages and ``<mask>`` to the dictionary, they are moved to its end.

    Raises:
        FairseqElError: there are no languages, or no ``<mask>`` where the task would add one.
    """
    found = {index: tokens.of_token(words[index]) for index in order}
    languages = {index: language for index, language in found.items() if language is not None}
    mask = [index for index in order if words[index] == "<mask>"]
    if not languages or (tokens.added and not mask):
        what = "its languages and <mask>, which fairseq's task adds to the dictionary" if tokens.added else "languages"
        raise FairseqElError(
            f"the vocabulary of a multilingual model must have {what}; that of {path} ends with "
            f"{', '.join(words[index] for index in order[-4:])}. Use the tokenizer that the model was published with"
        )
    if not tokens.added:
        return order, languages
    last = [*languages, *mask]
    return [*(index for index in order if index not in last), *last], languages


def _read_counts(directory: Path, symbols: List[str]) -> List[int]:
    """Reads the counts of a ``dict.txt`` in the directory, if it is the dictionary of these symbols."""
    path = directory / DICTIONARY
    if not path.is_file():
        return []
    try:
        counts = dict(_split(line) for line in path.read_text("utf-8").split("\n") if line)
    except ValueError:  # it is some other file
        return []
    return [*[1] * len(SPECIAL_SYMBOLS), *counts.values()] if list(counts) == symbols[len(SPECIAL_SYMBOLS) :] else []


def _split(line: str) -> Tuple[str, int]:
    word, _, count = line.rpartition(" ")
    return word, int(count)
