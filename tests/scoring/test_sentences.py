from __future__ import annotations

import pytest

from fairseq_el.scoring import SPLITS


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("One. Two! Three?", ["One.", "Two!", "Three?"]),
        ("one . two .", ["one .", "two ."]),
        ('He said "no." Then he left.', ['He said "no."', "Then he left."]),
        ("he said `` no . '' then he left .", ["he said `` no . ''", "then he left ."]),
        ("3.5 per cent", ["3.5 per cent"]),
        ("", []),
        ("  no end ", ["no end"]),
    ],
)
def test_by_punctuation(text, sentences):
    assert SPLITS["punctuation"](text) == sentences


def test_by_lines():
    assert SPLITS["lines"]("One. Two<q>Three") == ["One. Two", "Three"]
    assert SPLITS["lines"]("One. Two") == ["One. Two"]
