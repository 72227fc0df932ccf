"""Lines of a journal: read back exactly, or not at all."""

from __future__ import annotations

import math

import pytest
from tiny_jobs import result_of

from fairseq_el.jobs import Hypothesis, Result
from fairseq_el.jobs.records import line_of, number_in, read_record, record_in, record_of


@pytest.mark.parametrize("number", range(14))
def test_a_result_comes_back(number):
    line = line_of(record_of(result_of(number), "0123"))
    assert line.count(b"\n") == 1 and line.endswith(b"\n")
    record = record_in(line)
    assert number_in(record) == number
    assert read_record(record) == (result_of(number), "0123")


def test_numbers_that_json_has_no_words_for():
    scores = (math.inf, -math.inf, -0.0, 5e-324, 0.1 + 0.2)
    back, _ = read_record(record_of(Result(0, "s", (Hypothesis("t", "t", math.nan, scores),))))
    assert math.isnan(back.hypotheses[0].score)
    assert list(map(repr, back.hypotheses[0].positional_scores)) == list(map(repr, scores))


def test_any_byte_that_was_changed_is_found():
    line = line_of(record_of(result_of(1)))
    for place in range(len(line)):
        for bit in range(8):
            changed = line[:place] + bytes([line[place] ^ 1 << bit]) + line[place + 1 :]
            assert record_in(changed) is None, (place, bit)


def test_no_part_of_a_line_is_a_line():
    line = line_of(record_of(result_of(1)))
    assert all(record_in(line[:end]) is None for end in range(len(line)))
    assert all(record_in(line[begin:]) is None for begin in range(1, len(line)))
    assert record_in(line + line) is None
