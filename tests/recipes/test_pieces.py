"""Text in pieces and back."""

from __future__ import annotations

import json

from commands import EXAMPLE
from fairseq.data import Dictionary
from fairseq.data.encoders.gpt2_bpe_utils import bytes_to_unicode

from fairseq_el.recipes.pieces import Pieces

HARD = ("  x", "a\u00a0b", "caf\u00e9 \u4e2d \U0001f600", "tab\there", "a\u2028b", "<s> </s>", "it's  spaced ")


def test_gpt2(shared):
    bpe = {"name": "gpt2", "encoder": "encoder.json", "vocab": "vocab.bpe"}
    pieces = Pieces(bpe, shared / "data" / "gpt2_bpe")
    for text in HARD:
        encoded = pieces.encode(text)
        assert all(piece.isdigit() for piece in encoded.split())
        assert pieces.decode(encoded.split()) == text.strip()
    assert pieces.decode(["madeupword0000", *pieces.encode("two\nlines").split()]) == "two lines"


def test_text_that_is_split_already(tmp_path):
    pieces = Pieces({"name": "split"}, tmp_path)
    assert pieces.encode("ein Ba@@ um") == "ein Ba@@ um"
    assert pieces.decode(["ein", "Ba@@", "um"]) == "ein Baum"


def write_gpt2(work) -> dict[str, str]:
    """A BPE that merges nothing: a piece is a byte."""
    letters = {letter: i for i, letter in enumerate(bytes_to_unicode().values())}
    (work / "encoder.json").write_text(json.dumps(letters))
    (work / "vocab.bpe").write_text("#version: 0.2\n")
    return {"name": "gpt2", "encoder": "encoder.json", "vocab": "vocab.bpe"}


def words(*symbols: str) -> Dictionary:
    dictionary = Dictionary()
    for symbol in symbols:
        dictionary.add_symbol(symbol)
    return dictionary


def test_tokens_that_were_added_to_a_dictionary_of_gpt2(tmp_path):
    """They stay whole on both ways; padding of a dictionary, and ids without a piece, are no text."""
    bpe = write_gpt2(tmp_path)
    pieces = Pieces(bpe, tmp_path, [words(*map(str, range(256)), "<hl>", "[SEP]", "madeupword0000", "<mask>", "999")])
    assert pieces.added == ["<hl>", "[SEP]", "<mask>"]
    encoded = pieces.encode("a <hl>b[SEP] <mask> [SE").split()
    assert encoded == ["64", "220", "<hl>", "65", "[SEP]", "220", "<mask>", "220", "58", "50", "36"]
    assert pieces.decode(encoded) == "a <hl>b[SEP] <mask> [SE"
    assert pieces.decode(["64", "madeupword0000", "999", "<hl>", "<unk>", "</s>", "65"]) == "a<hl><unk>b"
    assert Pieces(bpe, tmp_path).encode("<hl>").split() == ["27", "71", "75", "29"]


def test_tokens_that_were_added_to_a_dictionary_of_sentencepiece():
    """Words that only look like pieces do not change how text is split."""
    model = {"name": "sentencepiece", "model": "spm.model"}
    plain = Pieces(model, EXAMPLE)
    whole = Dictionary.load(str(EXAMPLE / "dict.en.txt"))
    assert Pieces(model, EXAMPLE, [whole]).added == []
    pieces = Pieces(model, EXAMPLE, [whole, words("<hl>", "mann", "madeupword0000")])
    assert pieces.added == ["<hl>"]
    text = "ein mann <hl> und hund"
    encoded = pieces.encode(text).split()
    assert "<hl>" in encoded and encoded[: encoded.index("<hl>") - 1] == plain.encode("ein mann").split()
    assert pieces.decode([*encoded, "madeupword0000"]) == text.replace("<hl> ", "<hl> ")
