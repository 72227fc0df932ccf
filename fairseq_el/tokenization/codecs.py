"""Codecs with added tokens: fairseq's GPT-2 BPE and sentencepiece, and the tokenizers of Hugging Face."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Dict, List, Optional

from fairseq.data.encoders.gpt2_bpe import GPT2BPE, GPT2BPEConfig
from fairseq.data.encoders.sentencepiece_bpe import SentencepieceBPE, SentencepieceConfig

from fairseq_el.errors import FairseqElError
from fairseq_el.tokenization.added_tokens import AddedTokens

_CLEAN = (
    (" .", "."), (" ?", "?"), (" !", "!"), (" ,", ","), (" ' ", "'"),
    (" n't", "n't"), (" 'm", "'m"), (" 's", "'s"), (" 've", "'ve"), (" 're", "'re"),
)  # fmt: skip
_SPACE = "\u2581"


class Codec:
    """Base class of codecs: they encode text as symbols of a dictionary, and decode symbols."""

    def encode(self, text: str) -> List[str]:
        raise NotImplementedError

    def decode(self, symbols: List[str]) -> str:
        """Joins symbols to text. Special tokens and the padding of a dictionary stand for no text and are left out."""
        raise NotImplementedError


class Gpt2Codec(Codec):
    """GPT-2's BPE. Symbols are the ids of ``encoder.json``."""

    def __init__(
        self,
        encoder: Path,
        vocab: Path,
        added: AddedTokens,
        prefix_space: bool = False,
        others: Optional[Dict[str, str]] = None,
    ):
        """
        Args:
            prefix_space: put a space in front of a text that has none.
            others: tokens of symbols that are neither ids nor added tokens; no text is encoded as one.

        Raises:
            ValueError: an id of a token is not a whole number. Files that can't be read raise fairseq's own errors.
        """
        self._bpe = GPT2BPE(GPT2BPEConfig(gpt2_encoder_json=str(encoder), gpt2_vocab_bpe=str(vocab))).bpe
        wrong = next((index for index in self._bpe.encoder.values() if type(index) is not int), None)
        if wrong is not None:
            raise ValueError(f"ids of tokens must be whole numbers; one is {wrong!r}")
        self._tokens = {**{str(index): token for token, index in self._bpe.encoder.items()}, **(others or {})}
        self._added, self._prefix_space, self._encoder = added, prefix_space, encoder

    def encode(self, text: str) -> List[str]:
        return self._added.encode(text, self._encode_part)

    def _encode_part(self, text: str) -> List[str]:
        if self._prefix_space and not text.startswith(" "):
            text = f" {text}"
        try:
            return list(map(str, self._bpe.encode(text)))
        except KeyError as error:
            raise FairseqElError(
                f"{self._encoder} must have an id for every piece of a text; it has none for {error}. Take the files "
                "that the model was trained with"
            ) from error

    def decode(self, symbols: List[str]) -> str:
        return b"".join(map(self._bytes_of, symbols)).decode("utf-8", errors="replace")

    def _bytes_of(self, symbol: str) -> bytes:
        added = self._added.by_symbol.get(symbol)
        if added is not None:
            return b"" if added.special else added.token.encode("utf-8")
        token = self._tokens.get(symbol)
        if token is None:
            return b""
        if all(letter in self._bpe.byte_decoder for letter in token):
            return bytes(self._bpe.byte_decoder[letter] for letter in token)
        return token.encode("utf-8")


class SentencepieceCodec(Codec):
    """A sentencepiece model. Symbols are its pieces."""

    def __init__(
        self, model: Path, added: AddedTokens, marian: bool = False, clean_up: bool = False, strip: bool = False
    ):
        """
        Args:
            marian: a text may begin with a language code ``>>xx<<``, which is a symbol, and its punctuation is
                normalised where the package sacremoses is installed: as MarianTokenizer does.
            clean_up: take spaces before punctuation out of decoded text.
            strip: leave out white space before an added token, as sentencepiece does.
        """
        self._model = SentencepieceBPE(SentencepieceConfig(sentencepiece_model=str(model)))
        self._added, self._marian, self._clean_up = added, marian, clean_up
        self._keeps_space = not marian and not strip
        self._normalize = _punctuation_normalizer() if marian else None

    def pieces(self) -> List[str]:
        """Lists all pieces of the model."""
        return [self._model.sp.id_to_piece(index) for index in range(len(self._model.sp))]

    def encode(self, text: str) -> List[str]:
        if self._normalize is not None and text:
            text = self._normalize(text)
        return self._added.encode(text, self._encode_part)

    def _encode_part(self, text: str) -> List[str]:
        before: List[str] = []
        after: List[str] = []
        end = text.find("<<")
        if self._marian and text.startswith(">>") and end != -1:
            before, text = [text[: end + 2]], text[end + 2 :]
        elif self._keeps_space and text[-1:].isspace():  # before an added token; sentencepiece would leave it out
            after = [_SPACE]
        return [*before, *(self._model.encode(text).split(" ") if text.strip() else []), *after]

    def decode(self, symbols: List[str]) -> str:
        return _joined(symbols, self._added, self._clean_up)


class TokenizersCodec(Codec):
    """A ``tokenizer.json`` of Hugging Face, by the package tokenizers. Symbols are its tokens."""

    def __init__(self, path: Path, added: AddedTokens, renamed: Dict[str, str], clean_up: bool = False):
        """
        Args:
            renamed: symbols by tokens, for tokens that a dictionary can't hold under their own names.
            clean_up: take spaces before punctuation out of decoded text.

        Raises:
            FairseqElError: tokenizers is not installed.
        """
        try:
            from tokenizers import Tokenizer
        except ImportError as error:
            raise FairseqElError(f"{path} needs the package tokenizers: pip install tokenizers") from error
        self._tokenizer = Tokenizer.from_file(str(path))
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        symbols = {**renamed, **{token.token: token.symbol for token in added.tokens}}
        self._symbols = symbols
        self._tokens = {symbol: token for token, symbol in symbols.items()}
        self._clean_up = clean_up

    def encode(self, text: str) -> List[str]:
        ids = self._tokenizer.encode(text, add_special_tokens=False).ids
        tokens = [str(self._tokenizer.id_to_token(index)) for index in ids]
        return [self._symbols.get(token, token) for token in tokens]

    def decode(self, symbols: List[str]) -> str:
        ids = [self._tokenizer.token_to_id(self._tokens.get(symbol, symbol)) for symbol in symbols]
        text = self._tokenizer.decode([index for index in ids if index is not None], skip_special_tokens=True)
        return _cleaned(text) if self._clean_up else text


def _joined(pieces: List[str], added: AddedTokens, clean_up: bool) -> str:
    """Joins sentencepiece's pieces to text, where ``▁`` is a space."""
    parts = []
    for piece in pieces:
        token = added.by_symbol.get(piece)
        if token is not None:
            parts.append("" if token.special else token.token)
        elif not piece.startswith("madeupword"):
            parts.append(piece)
    text = "".join(parts).replace(_SPACE, " ").strip()
    return _cleaned(text) if clean_up else text


def _cleaned(text: str) -> str:
    for spaced, closed in _CLEAN:
        text = text.replace(spaced, closed)
    return text


def _punctuation_normalizer() -> Any:
    try:
        from sacremoses import MosesPunctNormalizer  # type: ignore[import-not-found]
    except ImportError:
        return None
    return MosesPunctNormalizer().normalize
