"""Tokenized text of one language: written whole, and cut to what the model reads."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import List

from fairseq.data import Dictionary
from tqdm import tqdm

from fairseq_el.conversion import read_dictionary
from fairseq_el.errors import CheckpointMismatchError
from fairseq_el.tokenization import LineTokenizer


@dataclass
class Language:
    """One side of the text, and what is put around its tokens.

    Attributes:
        name: as fairseq has it in file names.
        raw: path of the text, one sample a line.
        dictionary: path of ``dict.txt``.
        limit: largest number of tokens that is kept of a line.
        begin, end: tokens before and after every line.
    """

    name: str
    raw: Path
    dictionary: Path
    limit: int
    begin: List[str] = field(default_factory=list)
    end: List[str] = field(default_factory=list)


@dataclass
class Counts:
    """Numbers of lines and tokens of one language.

    Attributes:
        limit: largest number of tokens that was kept of a line.
        lines: number of lines.
        empty: lines without a token.
        cut: lines of more tokens than the limit.
        longest: tokens of the longest line, before it was cut.
        longest_kept: tokens of the longest line as the model reads it, special ones included.
        unknown: tokens that are not in the dictionary.
    """

    limit: int
    lines: int = 0
    empty: int = 0
    cut: int = 0
    longest: int = 0
    longest_kept: int = 0
    unknown: int = 0

    def as_text(self, name: str) -> str:
        parts = [f"{name}: {self.lines:,} lines, the longest of {self.longest:,} tokens"]
        parts.append(f"{self.cut:,} of more than {self.limit:,} were cut")
        if self.empty:
            parts.append(f"{self.empty:,} are empty")
        if self.unknown:
            parts.append(f"{self.unknown:,} tokens are not in the dictionary")
        return "; ".join(parts)


def write_tokens(language: Language, tokenizer: LineTokenizer, directory: Path) -> Counts:
    """Writes ``test.bpe.LANGUAGE``, the whole text, and ``test.LANGUAGE``, which is cut.

    Raises:
        CheckpointMismatchError: the dictionary lacks tokens of a BPE that needs no unknown ones.
    """
    words = read_dictionary(language.dictionary)
    counts = Counts(language.limit)
    encoded, cut = directory / f"test.bpe.{language.name}", directory / f"test.{language.name}"
    # Line ends are taken as multiprocessing_bpe_encoder.py does, which is as Python does. A byte-order mark is no text.
    with language.raw.open(encoding="utf-8-sig") as lines, encoded.open("w", encoding="utf-8") as whole, cut.open(
        "w", encoding="utf-8"
    ) as kept:
        for line in tqdm(lines, desc=language.raw.name, unit="line", leave=False, disable=None):
            tokens = tokenizer.encode(line.strip())
            whole.write(tokens + "\n")
            kept.write(" ".join(_cut(tokens.split(), language, words, counts)) + "\n")
    if counts.unknown and tokenizer.knows_all:
        raise CheckpointMismatchError(
            f"every token of {tokenizer.name} BPE must be in the dictionary; {counts.unknown:,} of {language.raw} are "
            f"not in {language.dictionary}. Take the dictionary that the model was trained with"
        )
    return counts


def _cut(tokens: List[str], language: Language, words: Dictionary, counts: Counts) -> List[str]:
    kept = [*language.begin, *tokens[: language.limit], *language.end]
    counts.lines += 1
    counts.empty += not tokens
    counts.cut += len(tokens) > language.limit
    counts.longest = max(counts.longest, len(tokens))
    counts.longest_kept = max(counts.longest_kept, len(kept) + 1)  # and </s>
    counts.unknown += sum(words.index(token) == words.unk() for token in tokens)
    return kept
