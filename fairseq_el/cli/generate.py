"""``fairseq-el generate``: text in, text out, a line for a line, in the order of the input."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import stat
import sys
import time
from pathlib import Path
from typing import Any, BinaryIO, Callable, Iterator, List, Optional, Tuple, Union

from fairseq_el.cli.fairseq_import import import_fairseq
from fairseq_el.cli.options import check_file, not_negative, size_of_memory
from fairseq_el.cli.parser import add_command
from fairseq_el.cli.progress_bar import ProgressBar
from fairseq_el.cli.streams import say_note, write_bytes
from fairseq_el.errors import FairseqElError
from fairseq_el.files import Paths, require_file, write_whole
from fairseq_el.jobs import FORMATS, Meter, PlainOutput, numbered_lines

_DESCRIPTION = """\
Decodes text, and writes a line for every line, in the order of the input. The hypotheses of a line are those of stock
fairseq with that line in a batch of its own: batches, windows and memory change only the speed.

DATA, the directory with the dictionaries, comes first. All other options are those of fairseq-interactive
(fairseq-interactive --help), such as -s and -t, --path a.pt:b.pt for an ensemble, --task, --bpe and --tokenizer,
--beam, --lenpen, --sampling, --nbest, --constraints, --user-dir for a plugin of your own, and the options --el-* of the
tasks el_*. With a language model, lines are prompts, and the output has the prompts with their continuations."""

_EXAMPLE = """\
examples:

  fairseq-el generate DATA -s de -t en --path model.pt --bpe sentencepiece --sentencepiece-model spm.model \\
    --beam 5 --input in.txt --output out.txt
  fairseq-el generate DATA -s de -t en --path model.pt ... < in.txt > out.txt

Input and output are UTF-8. Only a newline ends a line. An empty line gives an empty line. See docs/generate.md."""

_ALL = "all"
_SHOWN = 20  # failed lines


def add_parser(commands: Any, summary: str) -> None:
    parser = add_command(commands, "generate", _run, summary, _DESCRIPTION, _EXAMPLE, passes_options_on=True)
    parser.add_argument("data", metavar="DATA", help="directory with the dictionaries, as fairseq-preprocess writes it")
    text = parser.add_argument_group("text")
    text.add_argument("--input", metavar="FILE", default="-", help="lines to decode (default: standard input)")
    text.add_argument(
        "--output", metavar="FILE", default="-", help="has its name when it is whole (default: standard output)"
    )
    text.add_argument("--force", action="store_true", help="let --output and --stats replace their files")
    text.add_argument(
        "--format",
        choices=FORMATS,
        default="text",
        help="text: the best hypothesis; jsonl: a JSON object a line, with all of --nbest, scores (natural logarithms) "
        "and alignments; fairseq: the lines S-, H-, D-, P- and A- of fairseq-interactive (default: %(default)s)",
    )
    batches = parser.add_argument_group("batches (they change no result)")
    batches.add_argument(
        "--window",
        type=_window,
        metavar="N",
        help="lines to read ahead and sort by length; 0 leaves them in their order, all reads all (default: eight "
        "batches)",
    )
    batches.add_argument(
        "--memory",
        type=size_of_memory,
        metavar="SIZE",
        help="batches as large as fit into it, as 14GiB (default: what is free); --batch-size and --max-tokens give "
        "them a size of their own",
    )
    failures = parser.add_argument_group("lines that can't be decoded")
    failures.add_argument(
        "--truncate-source", action="store_true", help="cut sources that are longer than the model reads"
    )
    failures.add_argument(
        "--max-failures",
        type=not_negative,
        default=0,
        metavar="N",
        help="leave so many lines empty and name them at the end, with exit status 1, before giving up (default: 0)",
    )
    parser.add_argument("--stats", metavar="FILE", help="write numbers of lines and tokens, and times, as JSON")


def _window(text: str) -> Union[int, str]:
    return _ALL if text == _ALL else not_negative(text)


def _run(options: argparse.Namespace) -> int:
    _check(options)
    begun = time.monotonic()
    import_fairseq()
    from fairseq_el.jobs.generator import Generator

    generator = Generator.from_arguments([options.data, *options.rest])
    loaded = time.monotonic()
    with _input(options.input) as (stream, name):
        total = _survey(options, generator, stream, name)
        meter = Meter(total)

        def decode(write: Callable[[bytes], object]) -> List[Tuple[int, str]]:
            output = PlainOutput(write, options.format)
            return _decode(options, generator, numbered_lines(stream, name), output, meter)

        failed = _into(options, decode)
    if options.stats is not None:
        stats = {**meter.stats(), "seconds_to_load": loaded - begun, "failed_lines": [n + 1 for n, _ in failed]}
        text = json.dumps(stats, indent=2) + "\n"
        write_whole(Path(options.stats), lambda path: path.write_text(text, encoding="utf-8"), options.force)
    return _report(failed)


def _check(options: argparse.Namespace) -> None:
    """Refuses files before anything is computed."""
    inputs: Paths = [None if options.input == "-" else options.input]
    if options.input != "-" and not _is_stream(options.input):
        require_file(options.input, "--input must be a file with lines of text")
    for name in ("output", "stats"):
        path = getattr(options, name)
        if path not in (None, "-"):
            check_file(Path(path), options.force, f"--{name}", inputs)


def _is_stream(path: str) -> bool:
    """Says whether it is a pipe of a shell, which ends: ``<(zcat in.txt.gz)``."""
    return path.startswith(("/dev/stdin", "/dev/fd/", "/proc/self/fd/"))


@contextlib.contextmanager
def _input(path: str) -> Iterator[Tuple[BinaryIO, str]]:
    """Opens the input, and says where it comes from."""
    if path != "-":
        with open(path, "rb") as file:
            yield file, path
    elif sys.stdin is None:
        raise FairseqElError("the text must come from standard input, which is closed. Give it with --input FILE")
    else:
        yield sys.stdin.buffer, "standard input"


def _survey(options: argparse.Namespace, generator: Any, stream: BinaryIO, name: str) -> Optional[int]:
    """Reads a file once before it is decoded, so that bad lines are found at once, and counts its lines.

    Returns:
        their number; None for a pipe, which can be read only once.
    """
    if not _is_file(stream):
        return None
    begin = stream.tell()  # a shell may have read the first lines
    limit = generator.loaded.longest_source
    checks = limit is not None and not options.truncate_source and options.max_failures == 0
    total = 0

    def long_lines() -> Iterator[Tuple[int, str]]:
        nonlocal total
        for number, line in numbered_lines(stream, name):
            total = number + 1
            if checks and 2 * len(line) >= limit:  # a shorter one has fewer tokens, or almost always
                yield number, line

    generator.refuse_too_long(long_lines()) if checks else sum(0 for _ in long_lines())
    stream.seek(begin)
    return total


def _is_file(stream: BinaryIO) -> bool:
    try:
        return stat.S_ISREG(os.fstat(stream.fileno()).st_mode)
    except (OSError, ValueError):  # a stream that is no file of the system
        return False


def _decode(
    options: argparse.Namespace, generator: Any, lines: Any, output: PlainOutput, meter: Meter
) -> List[Tuple[int, str]]:
    """Decodes lines into the output. Returns numbers and problems of lines that failed."""
    failed: List[Tuple[int, str]] = []
    batches = generator.batches(
        lines,
        window=options.window,
        memory=options.memory,
        truncate_source=options.truncate_source,
        max_failures=options.max_failures,
    )
    with ProgressBar(meter) as bar:
        for results in batches:
            failed += [(result.number, result.problem) for result in results if result.problem]
            meter.add(results)
            output.write(*results)
            bar.show(output.held_back)
    return sorted(failed)


def _into(options: argparse.Namespace, decode: Callable[[Callable[[bytes], object]], Any]) -> Any:
    """Calls ``decode`` with what writes to ``--output``, and returns what it returns."""
    if options.output == "-":
        return decode(write_bytes)
    found: List[Any] = []

    def write(unfinished: Path) -> None:
        with open(unfinished, "wb") as file:
            found.append(decode(file.write))

    write_whole(Path(options.output), write, options.force)
    return found[0]


def _report(failed: List[Tuple[int, str]]) -> int:
    for number, problem in failed[:_SHOWN]:
        say_note(f"line {number + 1:,} has no output: {problem}")
    if len(failed) > _SHOWN:
        say_note(f"{len(failed) - _SHOWN:,} more lines have no output")
    return 1 if failed else 0
