"""``fairseq-el verify`` on what programs printed."""

from __future__ import annotations

import sys

import pytest

from fairseq_el.cli import main, verify  # noqa: F401  (its module is patched)

RECORDS = "S-0\tx\nH-0\t-1.0\t{0}\nD-0\t-1.0\t{0}\nP-0\t-1.0000\n"


@pytest.fixture
def prints(monkeypatch, tmp_path):
    """Has two runs print given texts, and returns the exit status of the comparison."""

    options = ["--task", "translation"]
    for name in ("a.pt", "b.pt"):
        (tmp_path / name).touch()
        options += ["--path", str(tmp_path / name)]

    def compare(one: str, other: str) -> int:
        printed = iter([one, other])
        module = sys.modules["fairseq_el.cli.verify"]
        monkeypatch.setattr(
            module, "run_program", lambda _, __, output, *rest: output.write_bytes(next(printed).encode())
        )
        return main(["verify", str(tmp_path), *options])

    return compare


@pytest.mark.parametrize("end", ["\n", "\r", "\r\n", "\v", "\x85", "\u2028"])
def test_what_comes_after_a_line_end_is_compared(end, prints, capsys):
    one, other = (RECORDS.format(f"same{end}{word}") for word in ("one", "two"))
    assert prints(one, one) == 0
    assert "All hypotheses of 1 sentences are the same" in capsys.readouterr().out
    assert prints(one, other) == 1
    assert "Hypotheses of 1 of 1 sentences differ" in capsys.readouterr().out


def test_nothing_is_printed(prints, capsys):
    assert prints("", "") == 1
    assert "wrote no hypotheses: was it given --quiet" in capsys.readouterr().err
