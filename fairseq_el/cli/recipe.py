"""``fairseq-el recipe``: an experiment from raw text to scores."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from fairseq_el.cli.parser import add_command, add_subcommands
from fairseq_el.cli.streams import flush_output, write_line
from fairseq_el.errors import OptionError
from fairseq_el.recipes import STEPS, read_recipe, refuse_others_directories

_DESCRIPTION = """\
Runs one step of an experiment that a YAML file describes. A step that is done is skipped; one that was killed is done
again from the last whole file."""

_EXAMPLE = """\
example:

  fairseq-el recipe download configs/cnndm.yaml --work cnndm"""

_SUMMARIES = {
    "download": "bring the files that it needs, or say which you must bring",
    "preprocess": "split text into tokens, and cut what is too long",
    "generate": "decode with EL-attention, in batches as large as fairseq-el plan says",
    "score": "write hypotheses in order, and their scores",
}


def add_parser(commands: Any, summary: str) -> None:
    parser = add_command(commands, "recipe", None, summary, _DESCRIPTION, _EXAMPLE)
    _add_work(parser, default=None)
    steps = add_subcommands(parser, "STEP", "steps")
    for name in STEPS:
        step = add_command(steps, name, run, _SUMMARIES[name], f"{_SUMMARIES[name].capitalize()}.")
        step.add_argument("config", metavar="CONFIG", type=Path, help="YAML file, as those in configs/")
        _add_work(step, default=argparse.SUPPRESS)  # what was given before STEP stays


def _add_work(parser: argparse.ArgumentParser, default: Any) -> None:
    parser.add_argument(
        "--work",
        type=Path,
        metavar="DIR",
        default=default,
        help="directory of all files of the experiment (default: recipes/NAME, by the name of CONFIG)",
    )


def run(options: argparse.Namespace) -> int:
    recipe = read_recipe(options.config)
    directory = options.work or Path("recipes", options.config.stem)
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OptionError(f"--work must be a directory that can be made; {directory}: {error.strerror}") from error
    refuse_others_directories(directory)
    STEPS[options.step](recipe, directory, _say)
    return 0


def _say(text: str) -> None:
    write_line(text)
    flush_output()  # before hours of decoding, also where standard output is a file
