"""Lines of text to tokens and back."""

from __future__ import annotations

from commands import EXAMPLE
from fairseq.data import Dictionary
from tiny_data import HARD_LINES, write_byte_bpe

from fairseq_el.tokenization import LineTokenizer


def test_gpt2(shared):
    directory = shared / "data" / "gpt2_bpe"
    tokenizer = LineTokenizer("gpt2", {"encoder": directory / "encoder.json", "vocab": directory / "vocab.bpe"})
    for text in HARD_LINES:
        encoded = tokenizer.encode(text)
        assert all(piece.isdigit() for piece in encoded.split())
        assert tokenizer.decode(encoded.split()) == text.strip()
    assert tokenizer.decode(["madeupword0000", *tokenizer.encode("two\nlines").split()]) == "two lines"


def test_text_that_is_split_already():
    tokenizer = LineTokenizer("split", {})
    assert tokenizer.encode("ein Ba@@ um") == "ein Ba@@ um"
    assert tokenizer.decode(["ein", "Ba@@", "um"]) == "ein Baum"


def words(*symbols: str) -> Dictionary:
    dictionary = Dictionary()
    for symbol in symbols:
        dictionary.add_symbol(symbol)
    return dictionary


def test_tokens_that_were_added_to_a_dictionary_of_gpt2(tmp_path):
    """They stay whole on both ways; padding of a dictionary, and ids without a piece, are no text."""
    files = write_byte_bpe(tmp_path)
    tokenizer = LineTokenizer(
        "gpt2", files, [words(*map(str, range(256)), "<hl>", "[SEP]", "madeupword0000", "<mask>", "999")]
    )
    assert tokenizer.added == ["<hl>", "[SEP]", "<mask>"]
    encoded = tokenizer.encode("a <hl>b[SEP] <mask> [SE").split()
    assert encoded == ["64", "220", "<hl>", "65", "[SEP]", "220", "<mask>", "220", "58", "50", "36"]
    assert tokenizer.decode(encoded) == "a <hl>b[SEP] <mask> [SE"
    assert tokenizer.decode(["64", "madeupword0000", "999", "<hl>", "<unk>", "</s>", "65"]) == "a<hl><unk>b"
    assert LineTokenizer("gpt2", files).encode("<hl>").split() == ["27", "71", "75", "29"]


def test_tokens_that_were_added_to_a_dictionary_of_sentencepiece():
    """Words that only look like pieces do not change how text is split."""
    files = {"model": EXAMPLE / "spm.model"}
    plain = LineTokenizer("sentencepiece", files)
    whole = Dictionary.load(str(EXAMPLE / "dict.en.txt"))
    assert LineTokenizer("sentencepiece", files, [whole]).added == []
    tokenizer = LineTokenizer("sentencepiece", files, [whole, words("<hl>", "mann", "madeupword0000")])
    assert tokenizer.added == ["<hl>"]
    text = "ein mann <hl> und hund"
    encoded = tokenizer.encode(text).split()
    assert "<hl>" in encoded and encoded[: encoded.index("<hl>") - 1] == plain.encode("ein mann").split()
    assert tokenizer.decode([*encoded, "madeupword0000"]) == text.replace("<hl> ", "<hl> ")
