"""The parser of ``fairseq-el``: how a command and its subcommands are added.

Every command is a module with ``add_parser(commands, summary)``. A command that has subcommands passes what
:func:`add_subcommands` returns to :func:`add_command` again, as ``fairseq-el convert strip`` does.
"""

from __future__ import annotations

import argparse
from typing import Any, Callable, List, NoReturn, Optional

from fairseq_el.errors import shortened


class Parser(argparse.ArgumentParser):
    """Prints an error in one line, with the ``--help`` of the command that was called, instead of all options.

    Subparsers are of this class too. The options have the innermost one that was called as ``parser``.
    """

    def __init__(self, *args: Any, **options: Any):
        super().__init__(*args, **options)
        self.set_defaults(parser=self, passes_options_on=False)

    def error(self, message: str) -> NoReturn:
        one_line = shortened(" ".join(message.split()))
        program = self.prog.partition(" ")[0]
        self.exit(2, f"{program}: error: {one_line}. Try: {self.prog} --help\n")


def add_command(
    commands: Any,
    name: str,
    run: Optional[Callable[[argparse.Namespace], int]],
    summary: str,
    description: str,
    example: str = "",
    passes_options_on: bool = False,
) -> Parser:
    """Adds a command or a subcommand.

    Args:
        commands: what :func:`add_subcommands` returned.
        run: does what the command does, and returns the exit status. Its argument has the options, ``command_line``
            (as it was given) and ``rest`` besides. None for a command that has subcommands.
        summary: a few words, for the list of commands.
        description: several lines are printed as they are; one line is wrapped.
        example: printed as it is.
        passes_options_on: the command passes options that it does not know to another program; they are put in
            ``rest``. Other commands refuse them.
    """
    as_written = bool(example) or "\n" in description
    parser: Parser = commands.add_parser(
        name,
        help=summary,
        description=description,
        epilog=example or None,
        formatter_class=argparse.RawDescriptionHelpFormatter if as_written else argparse.HelpFormatter,
        allow_abbrev=False,
    )
    parser.set_defaults(run=run, passes_options_on=passes_options_on)
    return parser


def add_subcommands(parser: argparse.ArgumentParser, metavar: str, title: str) -> Any:
    """The place for the commands of a parser; a command line must name one of them.

    Args:
        metavar: stands for a command in usage and errors, as ``"COMMAND"``.
        title: heads their list in ``--help``, as ``"commands"``.
    """
    # argparse keeps the chosen name under dest; nested parsers need different ones.
    return parser.add_subparsers(dest=metavar.lower(), metavar=metavar, title=title, required=True)


def parse(parser: Parser, given: List[str]) -> argparse.Namespace:
    """The options of the command that ``given`` calls, with ``rest``; see :func:`add_command`.

    An error ends the program with status 2. Its message names the ``--help`` of the command that was called.
    """
    options, rest = parser.parse_known_args(given)
    if rest and not options.passes_options_on:
        options.parser.error(f"unrecognized arguments: {' '.join(rest)}")
    options.rest = rest
    return options
