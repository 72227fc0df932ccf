"""Programs in processes of their own, and the message for one that failed."""

from __future__ import annotations

import re

import pytest

from fairseq_el import FairseqElError
from fairseq_el.subprocesses import run_program


@pytest.mark.parametrize(
    ("program", "message"),
    [
        ("import sys; sys.exit('a log\\nfairseq_el: error: what, rule:\\n  - one')", r": what, rule:\n  - one"),
        ("import argparse; argparse.ArgumentParser('x').parse_args(['--y'])", ": unrecognized arguments: --y"),
        ("raise OSError('no such thing')", ": OSError: no such thing. Run the program by itself, .* to see where"),
        ("import sys; sys.exit('one\\ntwo')", "; its log ends with:\none\ntwo"),
        ("import os; os.kill(os.getpid(), 9)", "; its log ends with:\n"),
    ],
)
def test_why_it_ended(program, message, tmp_path, monkeypatch):
    (tmp_path / "program_that_fails.py").write_text(program)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(FairseqElError) as raised:
        run_program("program_that_fails", [], tmp_path / "output", tmp_path / "log", "it")
    assert re.fullmatch(rf"it ended with status -?\d+{message}", str(raised.value))
    assert "Traceback" not in str(raised.value)
