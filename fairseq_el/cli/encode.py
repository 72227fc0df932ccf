"""``fairseq-el encode``: text as the pieces that fairseq-preprocess reads."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from fairseq_el.cli.output import write_line
from fairseq_el.errors import FairseqElError, OptionError
from fairseq_el.tokenization import DESCRIPTION, read_codec


def add_parser(commands: Any) -> None:
    command = commands.add_parser(
        "encode",
        help="text as pieces for fairseq-preprocess, with the tokenizer of a converted model",
        description="Reads text from standard input, one sentence a line, and writes the pieces of each line with a "
        "space between them, as --bpe el_pieces has them.",
        allow_abbrev=False,
    )
    command.set_defaults(run=_run)
    command.add_argument("directory", metavar="DIR", type=Path, help="directory that convert from-hf wrote")


def _run(options: argparse.Namespace) -> int:
    path = options.directory / DESCRIPTION
    if not path.is_file():
        raise OptionError(f"DIR must be a directory that fairseq-el convert from-hf wrote; there is no {path}")
    codec = read_codec(path)
    try:
        for line in sys.stdin:
            write_line(" ".join(codec.encode(line.strip())))  # fairseq-interactive strips lines too
    except UnicodeDecodeError as error:
        raise FairseqElError(f"standard input must be text in UTF-8, and is not: {error.reason}") from error
    return 0
