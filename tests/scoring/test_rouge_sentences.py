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
        ("He said \u201cno.\u201d Then he left.", ["He said \u201cno.\u201d", "Then he left."]),
        ("He left. \u201cThen?\u201d she asked.", ["He left.", "\u201cThen?\u201d", "she asked."]),
        ("\u2018No!\u2019 He left.", ["\u2018No!\u2019", "He left."]),
        ("(\u201cNo.\u2019\u201d) He left.", ["(\u201cNo.\u2019\u201d)", "He left."]),
        ("he said \u201c no . \u201d then he left .", ["he said \u201c no . \u201d", "then he left ."]),
        ("he left . \u201c then , \u201d she said", ["he left .", "\u201c then , \u201d she said"]),
        ("\u201eNein.\u201c Er ging.", ["\u201eNein.\u201c", "Er ging."]),
        ("\u00bbNein.\u00ab Er ging.", ["\u00bbNein.\u00ab", "Er ging."]),
        ("\u203aNein.\u2039 Er ging.", ["\u203aNein.\u2039", "Er ging."]),
        ("\u00ab\u00a0Non.\u00a0\u00bb Il part.", ["\u00ab\u00a0Non.\u00a0\u00bb", "Il part."]),
        ("Il part. \u00ab\u00a0Non.", ["Il part.", "\u00ab\u00a0Non."]),
        ("No full stop<n>here<q>nor <n> here.<n>Yes.", ["No full stop", "here", "nor", "here.", "Yes."]),
        ("one\ntwo\r\nthree\rfour", ["one", "two", "three", "four"]),
        ("<n><q>\n<n>", []),
        ("a <name> and x<no>y", ["a <name> and x<no>y"]),
        ("", []),
        ("  no end ", ["no end"]),
    ],
)
def test_by_punctuation(text, sentences):
    assert SPLITS["punctuation"](text) == sentences


def test_by_lines():
    assert SPLITS["lines"]("One. Two<q>Three") == ["One. Two", "Three"]
    assert SPLITS["lines"]("One. Two") == ["One. Two"]
    assert SPLITS["lines"]("One. Two<n>Three<q>Four\nFive\r\nSix") == ["One. Two", "Three", "Four", "Five", "Six"]
