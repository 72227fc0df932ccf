"""Lines of text to tokens that a dictionary knows, and back, by the name of a BPE."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Dict, Iterable, List, Optional, Set

from fairseq.data import Dictionary
from fairseq.data.data_utils import post_process

from fairseq_el.errors import FairseqElError, summary_of
from fairseq_el.tokenization.added_tokens import AddedToken, AddedTokens
from fairseq_el.tokenization.codecs import Codec, Gpt2Codec, SentencepieceCodec
from fairseq_el.tokenization.el_pieces import read_codec

BPE_FILES = {  # files that each BPE needs
    "gpt2": ("encoder", "vocab"),
    "sentencepiece": ("model",),
    "el_pieces": ("description",),
    "split": (),
}
_PADDING = re.compile(r"madeupword\d+")  # pads dictionaries, and stands for no text
_MARKER = re.compile(r"<.+>|\[.+\]|\{.+\}|>>.+<<")
_UNKNOWN = {"<unk>": "<unk>"}


class LineTokenizer:
    """Tokenizer for lines of text.

    It is GPT-2's BPE, sentencepiece, or the tokenizer of a Hugging Face model. With ``split``, the text is in pieces
    already (by ``subword_nmt``, ``@@``). A word of the dictionary that is not a piece of the BPE, such as ``<hl>``, is
    an added token: it stays whole.

    Attributes:
        name: of the BPE, one of ``BPE_FILES``.
        knows_all: whether the BPE writes every text without an unknown token, as GPT-2's does.
        added: tokens that were added to the dictionary.
    """

    def __init__(self, name: str, files: Dict[str, Path], dictionaries: Iterable[Dictionary] = ()):
        """
        Args:
            files: paths of the files that the BPE needs, by the names in ``BPE_FILES``.
            dictionaries: of the model; they tell which tokens were added.

        Raises:
            FairseqElError: a file can't be read, or is not in the BPE's format.
        """
        self.name = name
        self.knows_all = name == "gpt2"
        self.added: List[str] = []
        try:
            self._codec = self._open(files, dictionaries)
        except FairseqElError:
            raise
        except Exception as error:  # json, sentencepiece and fairseq each raise their own
            listed = ", ".join(map(str, files.values()))
            raise FairseqElError(f"the files of BPE {name} can't be read ({listed}): {summary_of(error)}") from error

    def _open(self, files: Dict[str, Path], dictionaries: Iterable[Dictionary]) -> Optional[Codec]:
        if self.name == "gpt2":
            self.added = added_words(dictionaries, set(), numbers=True)
            return Gpt2Codec(files["encoder"], files["vocab"], _tokens(self.added), others=_UNKNOWN)
        if self.name == "sentencepiece":
            codec = SentencepieceCodec(files["model"], AddedTokens([]))
            self.added = added_words(dictionaries, set(codec.pieces()), numbers=False)
            return SentencepieceCodec(files["model"], _tokens(self.added))
        return read_codec(files["description"]) if self.name == "el_pieces" else None

    def encode(self, line: str) -> str:
        """Writes a line of text as tokens with a space between them."""
        return line if self._codec is None else " ".join(self._codec.encode(line))

    def decode(self, tokens: List[str]) -> str:
        """Joins tokens that a model wrote to one line of text, without those that stand for no text."""
        text = post_process(" ".join(tokens), "subword_nmt") if self._codec is None else self._codec.decode(tokens)
        return text.replace("\r", " ").replace("\n", " ").strip()


def added_words(dictionaries: Iterable[Dictionary], pieces: Set[str], numbers: bool) -> List[str]:
    """Finds the words of dictionaries that are neither pieces nor special symbols nor padding.

    Args:
        pieces: of the BPE.
        numbers: the pieces are numbers, and every other word was added. Else only words in brackets count as added.
    """
    found: Dict[str, None] = {}
    for words in dictionaries:
        for word in words.symbols[words.nspecial :]:
            is_piece = word.isdecimal() if numbers else word in pieces or not _MARKER.fullmatch(word)
            if not is_piece and not _PADDING.fullmatch(word):
                found[word] = None
    return list(found)


def _tokens(words: Iterable[str]) -> AddedTokens:
    return AddedTokens(AddedToken(word, word) for word in words)
