"""What fairseq printed is read as it was printed, or refused with the number of the line."""

from __future__ import annotations

import json
import random

import pytest
from fairseq.data.encoders.gpt2_bpe_utils import Encoder, bytes_to_unicode
from printed import HARD, MESSAGE, printed

from fairseq_el.errors import FairseqElError
from fairseq_el.files import read_lines
from fairseq_el.scoring import read_generate_output, read_hypotheses


def read(tmp_path, text, **options):
    (tmp_path / "output").write_bytes(text.encode())
    lines = read_lines(tmp_path / "output", "FILE")
    return read_generate_output(lines.lines, lines.is_ended)


@pytest.mark.parametrize("interactive", [False, True])
@pytest.mark.parametrize("nbest", [1, 3])
def test_texts_are_read_whole(interactive, nbest, tmp_path):
    references = None if interactive else HARD[::-1]
    output = read(tmp_path, printed(HARD, references, nbest, interactive))
    assert output.in_order(output.hypotheses, "hypotheses") == HARD
    assert interactive or output.in_order(output.references, "references") == references
    assert len(read_hypotheses(printed(HARD, None, nbest).split("\n"))) == len(HARD)


def test_programs_that_write_no_detokenised_lines(tmp_path):
    output = read(tmp_path, printed(["x", "y"], detokenised=False))
    assert output.hypotheses == {0: "\u2581pieces 0 0", 1: "\u2581pieces 1 0"}


def test_random_texts_are_read_whole_or_refused():
    """Texts of parts of records: never another text, and not often an error."""
    parts = ["a", " ", "\n", "\r", "\t", "\x85", "S-0", "P-1"]
    parts += ["T-34\t", "H-1\t", "D-1\t-0.5\t", "P-0\t-0.1000", "W-2\t"]
    draw = random.Random(0)
    refused = 0
    for _ in range(800):
        texts = ["".join(draw.choices(parts, k=draw.randrange(6))) for _ in range(3)]
        references = ["".join(draw.choices(parts, k=draw.randrange(3))) for _ in range(3)]
        try:
            output = read_generate_output(printed(texts, references)[:-1].split("\n"))
            assert output.in_order(output.hypotheses, "hypotheses") == texts
            assert output.in_order(output.references, "references") == references
        except FairseqElError as error:
            assert "line" in str(error)
            refused += 1
    assert 0 < refused < 200


def test_byte_level_bpe_writes_newlines():
    """So a hypothesis of a model with GPT-2's vocabulary can have one."""
    letters = {letter: number for number, letter in enumerate(bytes_to_unicode().values())}
    encoder = Encoder(json.loads(json.dumps(letters)), [])
    assert encoder.decode(encoder.encode("two\nlines\r")) == "two\nlines\r"


def test_shards_one_after_the_other(tmp_path):
    """Also each with a byte-order mark, and a text with a newline at its end."""
    whole = printed(["a\n", "b", "c", "d"])
    first, second = whole.split("S-1", 1)
    output = read(tmp_path, "\ufeff" + first + MESSAGE + "\ufeff" + "S-1" + second)
    assert output.in_order(output.hypotheses, "hypotheses") == ["a\n", "b", "c", "d"]


def test_windows_line_ends(tmp_path):
    output = read(tmp_path, printed(["a", "b\nc"], ["d", "e"]).replace("\n", "\r\n"))
    assert (output.hypotheses, output.references) == ({0: "a", 1: "b\nc"}, {0: "d", 1: "e"})


def test_the_best_by_score():
    """Where somebody has sorted the lines."""
    lines = ["D-0\t-2.5\tb", "D-0\t-0.5\ta", "D-0\t-inf\tc", "D-1\tnan\tx", "D-1\t-1\ty"]
    assert read_generate_output(lines).hypotheses == {0: "a", 1: "x"}


S, H, D, P = "S-0\ta", "H-0\t-1\tb", "D-0\t-1\tb", "P-0\t-0.5000"


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["S-1000000000000\ta", *(H, D, P)], "line 1 has a sentence whose number has 13 digits"),
        ([S, "H-99999999999999999999\t-1\tb", D, P], "line 2 has a sentence whose number has 20 digits"),
        ([f"S-{'9' * 5000}\ta"], "line 1 has a sentence whose number has 5000 digits"),
        (["S--1\ta", H, D, P], "line 1 begins with 'S--1', which has no number of a sentence"),
        ([S, H, "D-x\t-1\tb", P], "line 3 begins with 'D-x'"),
        (["S-0x1\ta"], "line 1 begins with 'S-0x1'"),
        (["S-\u0661\ta"], "line 1 begins with 'S-\u0661'"),
        (["S-007\ta"], "line 1 begins with 'S-007'"),
        ([S, "H-0\tone\tb"], "line 2 must have a number as the score of H-0; it has 'one'"),
        ([S, "H-0\t-1"], "line 2 must be H-0, a score and a text"),
        ([S, H, D, P, "S-1\ta", "H-1\t-1\tb", "D-1\t-1\tb"], "line 7 is the last, and D-1 is not over: .* P-"),
        ([S, H, D, P, "S-1\ta"], "line 5 is the last, and S-1 is not over"),
        ([S, H, D, MESSAGE[:-1], P], "line 4 is a message in the middle of D-0"),
        ([S, H, D, "x.py:1: UserWarning: old", P], "line 4 is a message in the middle of D-0"),
        ([S, H, D, "more", "T-3\tb", P], "line 5 begins T-3 before D-0 is over"),
        ([S, H, D, "A-1\tvitamin", P], "line 4 begins A-1 before D-0 is over"),
        ([S, H, D, "S-1\ta", "H-1\t-1\tb", "D-1\t-1\tb", P], "line 7 begins P-0 before D-1 is over"),
        ([S, H, D, P, "more", P], "line 6 has P-0, and no hypothesis before it"),
        ([S, "H-0\t-1\tbINFO:fairseq_cli.generate:NOTE", P], "line 2 has a progress bar or a message in the middle"),
        ([S, "\r 50%|##  | 1/2 [00:00<00:00]H-0\t-1\tb", P], "line 2 has a progress bar"),
        ([S, H, D, "more"], "line 4 may belong to D-0, or may be a message"),
        ([S, H, D, P, H, D, P, S, H, D, P], "line 8 has S-0 for the second time"),
        ([H, D, P, "H-1\t-1\tb", "D-1\t-1\tb", "P-1\t-0.5000", H, D, P], "line 7 has H-0 for the second time"),
    ],
)
def test_damaged_output(lines, message):
    with pytest.raises(FairseqElError, match=message):
        read_generate_output(lines)


def test_a_last_line_that_is_cut_off(tmp_path):
    with pytest.raises(FairseqElError, match="line 3 is the last, and D-0 is not over: it has no line end"):
        read(tmp_path, "\n".join([S, H, D]))
    assert read(tmp_path, "\n".join([S, H, D, P])).hypotheses == {0: "b"}
    assert read(tmp_path, "\n".join([S, H, D, ""])).hypotheses == {0: "b"}


def _by_number(line):
    number = line.partition("\t")[0].partition("-")[2]
    return (int(number) if number.isdecimal() else -1, line)


@pytest.mark.parametrize("key", [None, _by_number], ids=["sort", "sort -t- -k2n"])
@pytest.mark.parametrize("nbest", [1, 3])
def test_sorted_lines(key, nbest):
    """Each is whole, if no text had a newline; if one had, it is refused."""
    texts = [f"text {number}" for number in range(12)]
    lines = printed(texts, texts[::-1], nbest).replace("worse\n", "worse ")[:-1].split("\n")
    output = read_generate_output(sorted(lines, key=key))
    assert output.in_order(output.hypotheses, "hypotheses") == texts
    assert output.in_order(output.references, "references") == texts[::-1]
    with pytest.raises(FairseqElError, match=r"line \d+ .* \(or all sorted, if no text has a line end in it"):
        read_generate_output(sorted([*lines, "rest of a text"], key=key))


def test_records_in_a_text_are_not_taken_for_sorted_ones():
    text = "b\nD-1\t-1\tc\nP-1\t-0.5000"
    with pytest.raises(FairseqElError, match="line"):
        read_generate_output([*f"H-0\t-1\tx\nD-0\t-1\t{text}".split("\n"), P])


@pytest.mark.parametrize("number", [10**11, 123_456_789])
def test_a_damaged_number_takes_no_memory(number):
    output = read_generate_output([S, H, D, f"S-{number}\ta"])
    with pytest.raises(FairseqElError, match=rf"from 0 to {number}; .* missing of {number - 1}: 1, 2, 3, 4, 5, \.\.\."):
        output.in_order(output.sources, "sources")
