"""Descriptions of files that are read."""

from __future__ import annotations

import hashlib

import pytest

from fairseq_el.jobs import describe_file


@pytest.mark.parametrize(
    ("content", "lines"),
    [(b"", 0), (b"\n", 1), (b"a", 1), (b"a\n", 1), (b"a\nb", 2), (b"\n\n", 2), ("a\u2028b\x85\x0bc\r\nd".encode(), 2)],
)
def test_only_a_newline_ends_a_line(content, lines, tmp_path):
    path = tmp_path / "in.txt"
    path.write_bytes(content)
    found = describe_file(path)
    assert (found.size, found.lines) == (len(content), lines) and not found.is_pipe
    assert found.sha256 == hashlib.sha256(content).hexdigest()


def test_a_file_of_several_pieces(tmp_path):
    path = tmp_path / "in.txt"
    path.write_bytes(b"0123456789abcde\n" * 200_000 + b"x")
    assert describe_file(path).lines == 200_001
