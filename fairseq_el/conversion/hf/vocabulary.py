"""The order of fairseq's dictionary, and which row of Hugging Face's embedding each symbol has."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Dict, List, Optional, Tuple

from fairseq.data import Dictionary

from fairseq_el.conversion.hf.byte_bpe import Merge, encoder_of
from fairseq_el.conversion.hf.families import Family
from fairseq_el.conversion.hf.hf_directory import HFDirectory
from fairseq_el.conversion.hf.tokenizer_files import DICTIONARY, is_language, missing_ids, read_bpe_merges, read_tokens
from fairseq_el.conversion.limits import shown
from fairseq_el.errors import FairseqElError

BOS, PAD, EOS, UNK = range(4)  # of every dictionary of fairseq
_SPECIALS = ("<s>", "<pad>", "</s>", "<unk>")


@dataclass
class Vocabulary:
    """Symbols in fairseq's order, and the id of each for Hugging Face; None for one that it has not."""

    symbols: List[str]
    ids: List[Optional[int]]
    start: int  # the decoder's first symbol, by fairseq's index
    languages: List[str] = field(default_factory=list)  # mBART: their symbols, and <mask>, are added by the task
    merges: Optional[List[Merge]] = None
    notes: List[str] = field(default_factory=list)

    @property
    def is_identity(self) -> bool:
        """Whether both programs have the same ids."""
        return self.ids == list(range(len(self.ids)))

    def dictionary(self) -> Dictionary:
        words = Dictionary()
        for symbol in self.symbols[len(_SPECIALS) :]:
            words.add_symbol(symbol)
        return words

    def lines(self, counts: Dict[str, int]) -> str:
        """``dict.txt``: without special symbols, and without those that the task adds."""
        end = len(self.symbols) - (len(self.languages) + 1 if self.languages else 0)
        return "".join(f"{symbol} {counts.get(symbol, 1)}\n" for symbol in self.symbols[len(_SPECIALS) : end])


def read_vocabulary(directory: HFDirectory, family: Family) -> Vocabulary:
    """The vocabulary of a directory whose configuration has no problems.

    Raises:
        FairseqElError: it can't be read, or does not match the model; every mismatch is named.
    """
    config = directory.config
    tokens = read_tokens(directory, family)
    notes = []
    absent, beyond = missing_ids(tokens, config["vocab_size"])
    if len(beyond) > (1 if beyond == ["<mask>"] else 0):
        raise FairseqElError(
            f"the tokenizer must not have more tokens than the model has rows, vocab_size {config['vocab_size']}; in "
            f"{directory.path} it has {len(beyond)} more: {', '.join(map(repr, beyond[:5]))}. Copy the tokenizer of "
            "this model"
        )
    if beyond:
        notes.append("the tokenizer's <mask> has no row in the model, and is left out of the dictionary")
    if absent:
        notes.append(f"{len(absent)} rows of the embedding have no token; their symbols are madeupword...")
    merges = read_bpe_merges(directory) if family.byte_bpe else None
    encoder = encoder_of(merges) if merges is not None else {}
    words = {i: _word(token, encoder) for i, token in tokens.items() if i < config["vocab_size"]}
    _pad_words(words, absent)
    special = _special_ids(config, tokens, family)
    rest = [i for i in range(config["vocab_size"]) if i not in special]
    languages = []
    if family.languages:
        rest = _languages_last(rest, words, directory.path)
        languages = [words[i] for i in rest if is_language(words[i])]
    symbols = [*_SPECIALS, *(f"[{words[i]}]" if words[i] in languages else words[i] for i in rest)]
    renamed = _make_writable(symbols)
    if renamed:
        notes.append(f"{renamed} tokens have white space in them, or are there twice; their symbols are <token...>")
    vocabulary = Vocabulary(symbols, [*special, *rest], EOS, merges=merges, notes=notes)
    vocabulary.start = _start(vocabulary, config, family)
    vocabulary.languages = languages
    return vocabulary


def _word(token: str, encoder: Dict[str, int]) -> str:
    """The symbol of a token: of byte-level BPE the id of GPT-2's own files."""
    return str(encoder[token]) if token in encoder else token


def _pad_words(words: Dict[int, str], absent: List[int]) -> None:
    taken, number = set(words.values()), 0
    for index in absent:
        while f"madeupword{number:04d}" in taken:
            number += 1
        words[index] = f"madeupword{number:04d}"
        number += 1


def _special_ids(config: Dict[str, Any], tokens: Dict[int, str], family: Family) -> List[Optional[int]]:
    """Ids of fairseq's four special symbols, by what the model does with them, and else by their names."""
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
    for position in (BOS, UNK):  # a token that plays two parts has the more important one
        if found[position] in (found[PAD], found[EOS]):
            found[position] = None
    return found


def _make_writable(symbols: List[str]) -> int:
    """Renames symbols that a line of ``dict.txt`` can't hold, or that are there already."""
    taken = set(_SPECIALS)
    renamed = 0
    for index in range(len(_SPECIALS), len(symbols)):
        if symbols[index] in taken or len(symbols[index].split()) != 1 or symbols[index].split()[0] != symbols[index]:
            symbols[index] = f"<token{index}>"
            renamed += 1
        taken.add(symbols[index])
    return renamed


def _start(vocabulary: Vocabulary, config: Dict[str, Any], family: Family) -> int:
    if family.decoder_only or family.tokenizer == "MBartTokenizer":  # mBART-25's is the target language
        return EOS
    default = 2 if family.position_offset else config.get("pad_token_id")
    start = config.get("decoder_start_token_id", default)
    if start not in vocabulary.ids:
        raise FairseqElError(
            f"decoder_start_token_id must be one of the model's {len(vocabulary.ids)} tokens; it is {shown(start)}. "
            "Copy the config.json of this model"
        )
    return vocabulary.ids.index(start)


def _languages_last(order: List[int], words: Dict[int, str], path: Path) -> List[int]:
    """Ids with those of languages and <mask> at the end, where fairseq's task adds them to the dictionary."""
    languages = [index for index in order if is_language(words[index])]
    mask = [index for index in order if words[index] == "<mask>"]
    if not languages or not mask:
        raise FairseqElError(
            "mBART's vocabulary must have its languages and <mask>, which fairseq's task adds to the dictionary; "
            f"that of {path} ends with {', '.join(words[index] for index in order[-4:])}. Use the tokenizer that the "
            "model was published with"
        )
    last = [*languages, *mask]
    return [*(index for index in order if index not in last), *last]


def read_counts(directory: Path, vocabulary: Vocabulary) -> Dict[str, int]:
    """Counts of a ``dict.txt`` that lies there, if it is the dictionary of this vocabulary."""
    path = directory / DICTIONARY
    if not path.is_file():
        return {}
    try:
        counts = dict(_split(line) for line in path.read_text("utf-8").split("\n") if line)
    except ValueError:  # it is some other file
        return {}
    return counts if list(counts) == vocabulary.symbols[len(_SPECIALS) :] else {}


def _split(line: str) -> Tuple[str, int]:
    word, _, count = line.rpartition(" ")
    return word, int(count)
