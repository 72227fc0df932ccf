"""The programs of this repository, called in this process, and what they print: ``fairseq-el``, ``benchmarks/*.py``."""

from __future__ import annotations

import importlib
from typing import Sequence

from fairseq_el.cli import main


def call(arguments: Sequence[str]) -> int:
    """Runs ``fairseq-el`` with these arguments; or, if the first one is ``NAME.py``, ``benchmarks/NAME.py``."""
    if arguments and arguments[0].endswith(".py"):
        return importlib.import_module(arguments[0][: -len(".py")]).main(arguments[1:])
    return main(arguments)


def program_of(arguments: Sequence[str]) -> str:
    """The name that its errors begin with."""
    return arguments[0] if arguments and arguments[0].endswith(".py") else "fairseq-el"


def convert(capsys, *arguments) -> str:
    """What ``fairseq-el convert`` prints."""
    assert main(["convert", *map(str, arguments)]) == 0
    return capsys.readouterr().out


def failed_convert(capsys, *arguments) -> str:
    """The error of ``fairseq-el convert``, which must fail."""
    return failed(capsys, "convert", *arguments)


def failed(capsys, *arguments) -> str:
    """The error of ``fairseq-el``, which must fail."""
    try:
        assert main([*map(str, arguments)]) != 0
    except SystemExit as exit_:
        assert exit_.code == 2
    return capsys.readouterr().err
