"""Tokenizers: text to the symbols of a dictionary and back, with tokens that were added to a tokenizer.

``--bpe el_pieces`` is registered when this package is imported.
"""

from fairseq_el.tokenization.added_tokens import AddedToken, AddedTokens
from fairseq_el.tokenization.bpe import PiecesBPE
from fairseq_el.tokenization.codec_description import DESCRIPTION, files_of, read_codec
from fairseq_el.tokenization.codecs import Codec, Gpt2Codec, SentencepieceCodec, TokenizersCodec
from fairseq_el.tokenization.line_tokenizer import BPE_FILES, LineTokenizer

__all__ = [
    "BPE_FILES",
    "DESCRIPTION",
    "AddedToken",
    "AddedTokens",
    "Codec",
    "Gpt2Codec",
    "LineTokenizer",
    "PiecesBPE",
    "SentencepieceCodec",
    "TokenizersCodec",
    "files_of",
    "read_codec",
]
