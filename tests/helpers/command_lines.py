"""The programs of this repository, called in this process: ``fairseq-el``, and those under ``benchmarks/``."""

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
