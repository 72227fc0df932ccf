"""One process of ``fairseq-el generate``: lines in, decoding, and results into a job."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shlex
import stat
import sys
import time
from pathlib import Path
from typing import Any, BinaryIO, Callable, Iterable, Iterator, List, Mapping, Optional, Tuple

from fairseq_el.cli.progress_bar import ProgressBar
from fairseq_el.cli.streams import say_note
from fairseq_el.errors import FairseqElError, StoppedError
from fairseq_el.files import write_whole
from fairseq_el.jobs import (
    LAUNCHER,
    Input,
    Job,
    Meter,
    Result,
    Run,
    StopSignals,
    describe,
    fingerprint_of,
    installed_versions,
    numbered_lines,
    open_job,
    parse_share,
    refuse_too_many,
    resuming_command,
)

Numbered = Tuple[int, str]  # a line, and its number from 0
Decode = Callable[[Iterable[Numbered]], Iterator[List[Result]]]  # of an engine

_SHOWN = 20  # failed lines


def run_job(options: argparse.Namespace) -> int:
    """Decodes all lines, or those of a shard, and returns the exit status.

    Args:
        options: of ``fairseq-el generate``; ``journal`` is a path, or None.

    Raises:
        StoppedError: a signal has come, and the job can be resumed.
        FairseqElError: the options, files or lines can't be used.
    """
    from fairseq_el.text import read_settings

    settings = read_settings([options.data, *options.rest])
    share = None if options.shard is None else parse_share(options.shard, os.environ)
    with resumable(options) as signals, open_input(options.input) as (stream, name):
        run = run_of(options, settings, described(stream, name))
        output = sys.stdout.buffer if options.output == "-" else Path(options.output)
        inputs = [options.input, options.data, *settings.checkpoints]
        with open_job(
            run, output, options.journal, resume=options.resume, force=options.force, share=share, inputs=inputs
        ) as job:
            stats = _fill(options, settings, job, run.input, (stream, name), signals)
            refuse_too_many(job.problems, options.max_failures)
            job.finish(stats["end"])
    if options.stats is not None:
        write_stats(options, {**stats, "failed_lines": [number + 1 for number in sorted(job.problems)]})
    return report_failures(job.problems)


def run_of(options: argparse.Namespace, settings: Any, given: Input) -> Run:
    """All that must be the same when the job is resumed."""
    import torch

    from fairseq_el.text import deciding_files, deciding_options

    deciding = {name: getattr(options, name) for name in ("truncate_source", "target_prefix")}
    fingerprint = fingerprint_of(deciding_files(settings), {**deciding_options(settings), **deciding})
    device = "cpu" if settings.cfg.common.cpu or not torch.cuda.is_available() else "cuda"
    return Run(fingerprint, given, options.format, {**installed_versions(), "device": device})


@contextlib.contextmanager
def open_input(path: str) -> Iterator[Tuple[BinaryIO, str]]:
    """Opens the input, ``-`` for standard input, and says where it comes from."""
    if path != "-":
        with open(path, "rb") as file:
            yield file, path
    elif sys.stdin is None:
        raise FairseqElError("the text must come from standard input, which is closed. Give it with --input FILE")
    else:
        yield sys.stdin.buffer, "standard input"


def described(stream: BinaryIO, name: str) -> Input:
    """Describes the input from where it is, and goes back there. A pipe has a name only."""
    if not _is_file(stream):
        return Input(name)
    begin = stream.tell()
    found = describe(stream, name)
    stream.seek(begin)
    return found


def is_pipe_of_shell(path: str) -> bool:
    """Says whether it is a pipe of a shell, which ends: ``<(zcat in.txt.gz)``."""
    return path.startswith(("/dev/stdin", "/dev/fd/", "/proc/self/fd/"))


@contextlib.contextmanager
def resumable(options: argparse.Namespace) -> Iterator[Optional[StopSignals]]:
    """Notes signals that ask a job with a journal to stop, and says how it goes on after Ctrl-C."""
    if options.journal is None:
        yield None
        return
    try:
        launcher = os.environ.get(LAUNCHER)
        with StopSignals(None if launcher is None else int(launcher)) as signals:
            yield signals
    except KeyboardInterrupt:
        if options.journal.exists():
            say_note(f"go on with: {resuming_command(shlex.split(options.command_line))}")
        raise


def write_stats(options: argparse.Namespace, stats: Mapping[str, Any]) -> None:
    """Writes the file of ``--stats``."""
    text = json.dumps({key: value for key, value in stats.items() if key != "end"}, indent=2) + "\n"
    write_whole(Path(options.stats), lambda path: path.write_text(text, encoding="utf-8"), options.force)


def report_failures(problems: Mapping[int, str]) -> int:
    """Names lines that have no output, given by their numbers from 0, and returns the exit status."""
    numbers = sorted(problems)
    for number in numbers[:_SHOWN]:
        say_note(f"line {number + 1:,} has no output: {problems[number]}")
    if len(numbers) > _SHOWN:
        say_note(f"{len(numbers) - _SHOWN:,} more lines have no output")
    return 1 if numbers else 0


def stopped(options: argparse.Namespace, signal: str, done: str) -> StoppedError:
    """The error of a job that a signal has stopped. ``done``: how far it is."""
    command = resuming_command(shlex.split(options.command_line))
    return StoppedError(f"stopped by {signal}: {done}. Go on with: {command}")


def _fill(
    options: argparse.Namespace,
    settings: Any,
    job: Job,
    given: Input,
    source: Tuple[BinaryIO, str],
    signals: Optional[StopSignals],
) -> dict:
    """Decodes what the job has no results for. Returns figures, and ``end``, the number of lines that were read."""
    begun = time.monotonic()
    total = None if given.lines is None else len(job.share.numbers(given.lines))
    left = None if given.lines is None else job.num_left(given.lines)
    restarts = 0 if job.journal is None else job.journal.num_attempts
    end = 0

    def lines() -> Iterator[Numbered]:
        nonlocal end
        for number, line in numbered_lines(*source):
            end = number + 1
            if job.wants(number, line):
                yield number, line

    decode: Decode = lambda _: iter(())  # noqa: E731  (no model is loaded for nothing)
    if left != 0:
        decode = _engine(options, settings, given, source)
    loaded = time.monotonic()
    meter = Meter(total, before=0 if total is None or left is None else total - left, restarts=restarts)
    with contextlib.nullcontext() if options.quiet else ProgressBar(meter) as bar:
        for results in decode(lines()):
            job.write(*results)
            meter.add(results)
            if bar is not None:
                bar.show(job.held_back)
            if signals is not None and signals.asked and meter.done != total:
                raise stopped(options, signals.asked, meter.line())
    return {**meter.stats(), "seconds_to_load": loaded - begun, "end": given.lines if left == 0 else end}


def _engine(options: argparse.Namespace, settings: Any, given: Input, source: Tuple[BinaryIO, str]) -> Decode:
    """Loads what decodes. Refuses lines that can't be decoded before any is."""
    arguments = {
        "window": options.window,
        "memory": options.memory,
        "truncate_source": options.truncate_source,
        "target_prefix": options.target_prefix,
        "max_failures": options.max_failures,
    }
    if options.engine == "ray":
        from fairseq_el.workers import decode_on_ray

        _survey(source, given, None, options)
        command = [options.data, *options.rest]
        return lambda lines: decode_on_ray(command, lines, options.workers or 1, arguments)
    from fairseq_el.text import Generator, place_of

    place = place_of(os.environ)
    place.take_card()
    generator = Generator.from_settings(settings)
    if options.memory is None:
        arguments["memory"] = place.memory(generator.loaded.on_card)
    _survey(source, given, generator, options)
    return lambda lines: generator.batches(lines, **arguments)


def _survey(source: Tuple[BinaryIO, str], given: Input, generator: Any, options: argparse.Namespace) -> None:
    """Reads a file once before it is decoded, so that all bad lines are found at once. A pipe can't be read twice."""
    if given.is_pipe:
        return
    stream, name = source
    begin = stream.tell()  # a shell may have read the first lines
    longest = None if generator is None else generator.loaded.longest_source
    refuses = longest is not None and not options.truncate_source and options.max_failures == 0
    limit = longest or 0

    def long_lines() -> Iterator[Numbered]:
        for number, line in numbered_lines(stream, name):
            if refuses and 2 * len(line) >= limit:  # a shorter one has fewer tokens, or almost always
                yield number, line

    if generator is None:
        for _ in long_lines():
            pass
    else:
        generator.refuse_too_long(long_lines(), options.target_prefix)
    stream.seek(begin)


def _is_file(stream: BinaryIO) -> bool:
    try:
        return stat.S_ISREG(os.fstat(stream.fileno()).st_mode)
    except (OSError, ValueError):  # a stream that is no file of the system
        return False
