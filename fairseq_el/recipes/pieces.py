"""Text to the pieces that a model knows, and back."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Dict, Iterable, List, Optional, Set

from fairseq.data import Dictionary
from fairseq.data.data_utils import post_process

from fairseq_el.errors import FairseqElError, summary_of
from fairseq_el.tokenization import AddedToken, AddedTokens, Codec, Gpt2Codec, SentencepieceCodec, read_codec

_PADDING = re.compile(r"madeupword\d+")  # of dictionaries: these stand for no text
_MARKER = re.compile(r"<.+>|\[.+\]|\{.+\}|>>.+<<")
_UNKNOWN = {"<unk>": "<unk>"}


class Pieces:
    """Of GPT-2's BPE, sentencepiece, a model of Hugging Face's, or text in pieces (split by ``subword_nmt``, ``@@``).

    A word of the dictionary that is no piece, such as ``<hl>``, is a token that was added to it: it stays whole.

    Attributes:
        knows_all: whether every text can be written in its pieces, as GPT-2's BPE can.
        added: tokens that were added to the dictionary.
    """

    def __init__(self, bpe: Dict[str, str], work: Path, dictionaries: Iterable[Dictionary] = ()):
        """
        Args:
            bpe: of a recipe.
            work: directory with the files that it names.

        Raises:
            FairseqElError: they can't be read as what they should be.
        """
        self.name = bpe["name"]
        self.knows_all = self.name == "gpt2"
        self.added: List[str] = []
        files = {key: work / name for key, name in bpe.items() if key != "name"}
        try:
            self._codec = self._open(files, dictionaries)
        except FairseqElError:
            raise
        except Exception as error:  # json, sentencepiece and fairseq each raise their own
            listed = ", ".join(map(str, files.values()))
            raise FairseqElError(
                f"the files of BPE {self.name} can't be read ({listed}): {summary_of(error)}"
            ) from error

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
        """A line of text as pieces with a space between them."""
        return line if self._codec is None else " ".join(self._codec.encode(line))

    def decode(self, pieces: List[str]) -> str:
        """Pieces that a model wrote as one line of text; those that stand for no text are left out."""
        text = post_process(" ".join(pieces), "subword_nmt") if self._codec is None else self._codec.decode(pieces)
        return text.replace("\r", " ").replace("\n", " ").strip()


def added_words(dictionaries: Iterable[Dictionary], pieces: Set[str], numbers: bool) -> List[str]:
    """Words of dictionaries that are no pieces, no special symbols, and no padding.

    Args:
        numbers: pieces are numbers; else only words in brackets are taken for added ones.
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
