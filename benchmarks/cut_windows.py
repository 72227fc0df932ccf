"""Cuts tokenised text into windows of equal length, to have as many long inputs as a benchmark needs.

    python benchmarks/cut_windows.py TOKENS.txt --count 320 --length 1023 > test.src

Makes the inputs of "Does a large batch take what the plan says?" and "On a card" in docs/benchmarks.md. All lines are
joined; windows begin at even distances and overlap where the text is short.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from common import Arguments, make_parser, run_benchmark

from fairseq_el.cli.options import positive
from fairseq_el.cli.streams import write_line
from fairseq_el.errors import OptionError


def cut(options: argparse.Namespace) -> None:
    tokens = options.text.read_text(encoding="utf-8").split()
    last = len(tokens) - options.length
    if last < 0:
        raise OptionError(f"--length must be at most {len(tokens)}, the tokens of {options.text}; got {options.length}")
    for i in range(options.count):
        begin = round(i * last / max(options.count - 1, 1))
        write_line(" ".join(tokens[begin : begin + options.length]))


def main(arguments: Arguments = None) -> int:
    """Args: ``arguments``: of the command line (default: those of this process)."""
    parser = make_parser("cut_windows.py", __doc__)
    parser.add_argument("text", metavar="TOKENS.txt", type=Path, help="tokens separated by spaces")
    parser.add_argument("--count", type=positive, required=True, metavar="N", help="windows to cut")
    parser.add_argument("--length", type=positive, required=True, metavar="N", help="tokens of each")
    return run_benchmark(parser, cut, arguments)


if __name__ == "__main__":
    sys.exit(main())
