"""Windows of lines and batches, and lines of bytes, without a model."""

from __future__ import annotations

import io

import pytest

from fairseq_el import FairseqElError
from fairseq_el.jobs import numbered_lines
from fairseq_el.jobs.windows import batches, windows


def test_windows():
    assert list(windows(range(5), 2)) == [[0, 1], [2, 3], [4]]
    assert list(windows(range(4), 2)) == [[0, 1], [2, 3]]
    assert list(windows(range(5), None)) == [[0, 1, 2, 3, 4]]
    assert list(windows([], 3)) == list(windows([], None)) == []


def test_batches_begin_with_the_longest():
    lengths = [3, 9, 9, 1, 4]
    assert list(batches(lengths, lambda longest: 2)) == [[1, 2], [4, 0], [3]]
    assert list(batches(lengths, lambda longest: 2, in_order=True)) == [[0, 1], [2, 3], [4]]
    assert list(batches([], lambda longest: 2)) == []


def test_the_longest_of_a_batch_decides_how_many_fit():
    """As with a number of tokens that counts padding: 12 of them."""
    lengths = [1, 2, 6, 3, 5, 12, 4]
    assert list(batches(lengths, lambda longest: 12 // longest)) == [[5], [2, 4], [6, 3, 1], [0]]
    in_order = list(batches(lengths, lambda longest: 12 // longest, in_order=True))
    assert in_order == [[0, 1], [2, 3], [4], [5], [6]]
    assert all(len(batch) * max(lengths[i] for i in batch) <= 12 for batch in in_order)


def lines(content: bytes) -> list[str]:
    found = list(numbered_lines(io.BytesIO(content), "the file"))
    assert [number for number, _ in found] == list(range(len(found)))
    return [line for _, line in found]


def test_lines():
    assert lines(b"") == []
    assert lines(b"\n") == [""]
    assert lines(b"a\n\nb") == ["a", "", "b"]
    assert lines(b"a\r\nb\r") == ["a\r", "b\r"]
    assert lines("a\u2028b\x85c\vd\fe\x1cf\n".encode()) == ["a\u2028b\x85c\vd\fe\x1cf"]
    assert lines("\ufeffa\n\ufeffb\n".encode()) == ["a", "\ufeffb"]
    assert lines(b"a\0b\n") == ["a\0b"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a\nb\nc\xc3\n", r"line 3 of the file has byte 2 \(0xc3\), which is not: .* Convert it with iconv"),
        (b"\xed\xa0\x80\n", "line 1 of the file has byte 1"),  # half of a pair of UTF-16
        ("a line\n".encode("utf-16-le"), "the file is in UTF-16LE. Convert it: iconv -f UTF-16LE -t UTF-8"),
        ("a line\n".encode("utf-32"), "the file is in UTF-32"),
    ],
)
def test_other_bytes(content, message):
    with pytest.raises(FairseqElError, match=message):
        lines(content)


def test_lines_before_are_given():
    read = numbered_lines(io.BytesIO(b"a\n\xff\n"), "the file")
    assert next(read) == (0, "a")
    with pytest.raises(FairseqElError):
        next(read)
