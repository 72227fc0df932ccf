"""GPT-2's byte-level BPE: its files in fairseq's form (``encoder.json``, ``vocab.bpe``) and in Hugging Face's."""

from __future__ import annotations

from typing import Any, Dict, Iterable, List, Tuple

END_OF_TEXT = "<|endoftext|>"
_HEADER = "#version: 0.2"
Merge = Tuple[str, str]


def byte_symbols() -> List[str]:
    """The characters that stand for bytes, in the order of their ids: first those that can be printed."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = range(256 - len(printable))
    return [chr(byte) for byte in printable] + [chr(256 + i) for i in others]


def encoder_of(merges: Iterable[Merge]) -> Dict[str, int]:
    """``encoder.json``: ids are those of bytes, of merges in their order, and of the end of text."""
    symbols = [*byte_symbols(), *("".join(pair) for pair in merges), END_OF_TEXT]
    return {symbol: index for index, symbol in enumerate(symbols)}


def read_merges(lines: Iterable[Any]) -> List[Merge]:
    """Merges of ``merges.txt`` (lines) or ``tokenizer.json`` (strings, or pairs of strings).

    Raises:
        ValueError: one is no pair of symbols.
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
    """``vocab.bpe``, and Hugging Face's ``merges.txt``."""
    return "\n".join([_HEADER, *(" ".join(pair) for pair in merges), ""])
