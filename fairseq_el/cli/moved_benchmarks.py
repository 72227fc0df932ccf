"""``fairseq-el bench topk`` and ``fairseq-el bench slim``, which are programs under ``benchmarks/`` now."""

from __future__ import annotations

import importlib
import shlex
import sys
from pathlib import Path
from typing import Callable, List, Optional, Sequence

from fairseq_el.cli.streams import say_note
from fairseq_el.errors import OptionError

_PROGRAMS = {"topk": "topk_layers", "slim": "slim_training"}
_DIRECTORY = Path(__file__).resolve().parent.parent.parent / "benchmarks"  # of a checkout; it is not installed


def moved_benchmark(given: Sequence[str]) -> Optional[Callable[[List[str]], int]]:
    """The program that a command line of earlier versions ran; None if it is another command line.

    ``fairseq-el bench topk --path model.pt`` decodes a data set in the directory ``topk``.

    Raises:
        OptionError: this is not a checkout of the repository.
    """
    is_moved = len(given) > 1 and given[0] == "bench" and given[1] in _PROGRAMS
    if not is_moved or any(word.partition("=")[0] == "--path" for word in given):
        return None
    name = _PROGRAMS[given[1]]
    command = f"python benchmarks/{name}.py"
    if not (_DIRECTORY / f"{name}.py").is_file():
        raise OptionError(
            f"fairseq-el bench {given[1]} is a program of its own now, and only in a checkout of the repository of "
            f"fairseq_el; there: {shlex.join([*command.split(), *given[2:]])}"
        )
    say_note(f"bench {given[1]} is {command} now")
    if str(_DIRECTORY) not in sys.path:
        sys.path.insert(0, str(_DIRECTORY))
    program: Callable[[List[str]], int] = importlib.import_module(name).main
    return program
