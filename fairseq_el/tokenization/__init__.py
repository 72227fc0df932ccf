"""Tokenizers: text to the symbols of a dictionary and back, with tokens that were added to a tokenizer.

``--bpe el_pieces`` is registered when this package is imported.
"""

from fairseq_el.tokenization.added_tokens import AddedToken
from fairseq_el.tokenization.el_pieces import DESCRIPTION, files_of, read_codec
from fairseq_el.tokenization.line_tokenizer import BPE_FILES, LineTokenizer

__all__ = ["BPE_FILES", "DESCRIPTION", "AddedToken", "LineTokenizer", "files_of", "read_codec"]
