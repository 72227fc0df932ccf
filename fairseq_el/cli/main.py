"""Reading the command line, and errors in one line."""

from __future__ import annotations

import argparse
import logging
import shlex
import sys
from typing import Any, NoReturn, Optional, Sequence

from fairseq_el.cli import bench, bench_slim, bench_topk, convert, encode, plan, recipe, score, verify
from fairseq_el.errors import FairseqElError, OptionError


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, instead of after all options."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"fairseq-el: error: {message}. Try: {self.prog} --help\n")


def main(arguments: Optional[Sequence[str]] = None) -> int:
    """Runs ``fairseq-el`` and returns its exit status: 0, 1 for errors, 2 for a command line that makes no sense."""
    logging.getLogger().setLevel(logging.WARNING)  # fairseq configures it on import, to show much more
    parser = _Parser(prog="fairseq-el", description="Tools for decoding with EL-attention.")
    commands: Any = parser.add_subparsers(dest="command", metavar="COMMAND", title="commands", required=True)
    plan.add_parser(commands)
    bench.add_parser(commands)
    bench_slim.add_parser(commands)
    bench_topk.add_parser(commands)
    convert.add_parser(commands)
    encode.add_parser(commands)
    recipe.add_parser(commands)
    score.add_parser(commands)
    verify.add_parser(commands)
    given = list(sys.argv[1:] if arguments is None else arguments)
    if " ".join(given[:2]) in commands.choices:  # commands of two words
        given[:2] = [" ".join(given[:2])]
    options, rest = parser.parse_known_args(given)
    if rest and options.command != "verify":  # the only one that has options for another program
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    options.rest = rest
    options.command_line = shlex.join([parser.prog, *(sys.argv[1:] if arguments is None else arguments)])
    try:
        return int(options.run(options))
    except FairseqElError as error:
        sys.stderr.write(f"fairseq-el: error: {error}\n")
        return 2 if isinstance(error, OptionError) else 1
    except BrokenPipeError:  # whoever read the output has seen enough: fairseq-el plan ... | head
        sys.stderr.close()
        return 1
