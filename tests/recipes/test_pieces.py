"""Text in pieces and back."""

from __future__ import annotations

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
