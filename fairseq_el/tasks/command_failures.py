"""Messages for failures of fairseq's programs that options caused, or the files that they name."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from types import TracebackType
from typing import Optional

from omegaconf import DictConfig

from fairseq_el.errors import as_message
from fairseq_el.tasks.option_checks import CommandLine, command_problems


def explain_by_options(error: BaseException) -> Optional[str]:
    """Explains an exception that options of a fairseq program, or the files they name, caused; None for another cause.

    fairseq looks at some options before it sets up the task, and so before the task can check them.
    """
    said = str(error)
    if isinstance(error, ImportError) and said.startswith("Please install"):
        return said
    encoder = _explain_encoder(error)
    if encoder is not None:
        return encoder
    if isinstance(error, OSError) and said.startswith("Model file not found"):
        return f"{said}. --path must name a checkpoint, or several with a colon in between"
    if isinstance(error, FileNotFoundError) and re.match(r"Dataset not found: .* \(.*\)$", said):
        return _no_such_split(*said[len("Dataset not found: ") : -1].rsplit(" (", 1))
    if isinstance(error, FileNotFoundError) and str(error.filename).endswith("/dict.txt"):
        return f"There is no {error.filename}, which data of language models have. For pairs give --task el_translation"
    if said.startswith("Could not infer language pair"):
        return f"{said}: -s SOURCE -t TARGET, as in the names of the files in DATA"
    command = _command_in(error.__traceback__)
    if command is None or not isinstance(error, Exception):
        return None
    problems = command_problems(command) if command.reads_a_checkpoint else []
    named = re.findall(r"--[a-z-]*[a-z]", said) if isinstance(error, AssertionError) else []
    if named and not any(all(option in problem for option in named) for problem in problems):
        values = ", ".join(f"{option} {command.find(option[2:].replace('-', '_'))}" for option in named)
        problems.append(f"{said}; given: {values}")
    return as_message(problems) if problems else None


def _explain_encoder(error: BaseException) -> Optional[str]:
    """Explains a ``--bpe`` or ``--tokenizer`` that can't be set up; None if it is something else."""
    said, rule = str(error), "must be one that fairseq's command line can set up"
    missing = re.match(r"Missing mandatory value: (\w+)", said)
    if missing:
        return f"--{missing.group(1).replace('_', '-')} must be given with this --bpe or --tokenizer"
    unknown = re.search(r"'(bpe|tokenizer)/(\w+)'\s+Available options in '\w+':\s+((?:\w+\s+)+)Config", said)
    if unknown:
        return f"--{unknown.group(1)} {rule}, {', '.join(unknown.group(3).split())}; it is {unknown.group(2)}"
    absent = re.fullmatch(r"file (.*) not found", said)
    if absent and isinstance(error, OSError):
        return (
            f"The file {absent.group(1)} was not found. Options of --bpe and --tokenizer must name files that are there"
        )
    return None


def _no_such_split(split: str, path: str) -> str:
    data = Path(path) if Path(path).is_dir() else Path(path).parent  # language models name the split's file
    known = sorted({path.name.split(".")[0] for path in data.glob("*.idx")}) or ["no split at all"]
    return f"--gen-subset must name one split of the data; it is {split}, and {data} has {', '.join(known)}"


def _command_in(traceback: Optional[TracebackType]) -> Optional[CommandLine]:
    """Finds the command line of the fairseq program that an exception ended."""
    while traceback is not None:
        frame = traceback.tb_frame
        if str(frame.f_globals.get("__name__")).split(".")[0] in ("fairseq_cli", "fairseq", "__main__"):
            for name in ("cfg", "args"):
                options = frame.f_locals.get(name)
                groups = isinstance(options, DictConfig) and "common_eval" in options
                if groups or (isinstance(options, argparse.Namespace) and hasattr(options, "path")):
                    return CommandLine(options)
        traceback = traceback.tb_next
    return None
