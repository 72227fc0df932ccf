"""``fairseq-el encode``: splits text into the pieces that fairseq-preprocess reads."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from fairseq_el.cli.parser import add_command
from fairseq_el.cli.streams import write_line
from fairseq_el.errors import FairseqElError
from fairseq_el.files import lines_of, require_file
from fairseq_el.tokenization import DESCRIPTION, read_codec


def add_parser(commands: Any, summary: str) -> None:
    command = add_command(
        commands,
        "encode",
        _run,
        summary,
        "Reads text from standard input, one sentence a line, and writes the pieces of each line with a "
        "space between them, as --bpe el_pieces has them. Text is UTF-8, and only a newline ends a line.",
    )
    command.add_argument("directory", metavar="DIR", type=Path, help="directory that convert from-hf wrote")


def _run(options: argparse.Namespace) -> int:
    path = options.directory / DESCRIPTION
    require_file(path, "DIR must be a directory that fairseq-el convert from-hf wrote")
    codec = read_codec(path)
    for line in lines_of(_standard_input(), "standard input", "the text").lines:
        write_line(" ".join(codec.encode(line.strip())))  # fairseq-interactive strips lines too
    return 0


def _standard_input() -> bytes:
    """All bytes of standard input, whatever the encoding of this terminal is."""
    if sys.stdin is None:
        raise FairseqElError("the text must come from standard input, which is closed. Give it with < FILE")
    try:
        return sys.stdin.buffer.read()
    except OSError as error:
        error.filename = "standard input"
        raise
