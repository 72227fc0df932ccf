"""``fairseq-el generate --workers``: processes that decode the shares of a job, and the output merged from them."""

from __future__ import annotations

import argparse
import contextlib
import time
from pathlib import Path
from typing import List

from fairseq_el.cards.check import usable_device
from fairseq_el.cli.generate_job import (
    described,
    open_input,
    report_failures,
    resumable,
    run_of,
    stopped,
    write_stats,
)
from fairseq_el.cli.progress_bar import WatchedJob
from fairseq_el.jobs import INTERRUPTED, Run, merge, prepare_job, progress_line, progress_of
from fairseq_el.text import read_settings
from fairseq_el.workers import SignalledError, WorkerError, refuse_too_many_workers, run_workers


def run_job_with_workers(options: argparse.Namespace) -> int:
    """Decodes all lines with several processes, and returns the exit status.

    Raises:
        StoppedError: a signal has come, and the job can be resumed.
        FairseqElError: the options or files can't be used, a worker has failed, or too many lines have.
    """
    begun = time.monotonic()
    with resumable(options):
        if _prepare(options) > 0:
            _run(options)
        output = Path(options.output)
        problems = merge(options.journal, output, options.format, options.force, options.max_failures)
    if options.stats is not None:
        found = progress_of(options.journal)
        stats = {"lines": found.done, "workers": options.workers, "restarts": found.restarts}
        stats.update(seconds=time.monotonic() - begun, failed_lines=[number + 1 for number in sorted(problems)])
        write_stats(options, stats)
    return report_failures(problems)


def _prepare(options: argparse.Namespace) -> int:
    """Refuses all that is wrong once, in the place of every worker. Returns the number of lines to decode."""
    settings = read_settings([options.data, *options.rest])
    refuse_too_many_workers(options.workers, not settings.cfg.common.cpu and usable_device() == "cuda")
    with open_input(options.input) as (stream, name):
        run: Run = run_of(options, settings, described(stream, name))
    journal = prepare_job(
        run,
        Path(options.output),
        options.journal,
        resume=options.resume,
        force=options.force,
        may_discard=options.force,
        worker="launcher",
        inputs=[options.input, options.data, *settings.checkpoints],
    )
    assert journal is not None and run.input.lines is not None  # else the options are refused
    with contextlib.closing(journal):
        return sum(1 for _ in journal.missing(range(run.input.lines)))


def _run(options: argparse.Namespace) -> None:
    with contextlib.nullcontext() if options.quiet else WatchedJob(options.journal):
        try:
            run_workers(_command(options), options.workers, options.restarts)
        except SignalledError as error:
            raise stopped(options, error.name, progress_line(progress_of(options.journal))) from None
        except WorkerError as error:
            if error.exit_status == INTERRUPTED:
                raise stopped(options, "a signal", progress_line(progress_of(options.journal))) from None
            raise


def _command(options: argparse.Namespace) -> List[str]:
    """The command line of a worker."""
    command = ["fairseq_el.cli", "generate", options.data, *options.rest, "--shard", "env", "--quiet"]
    for name in ("input", "output", "format", "window", "memory", "max_failures", "journal"):
        value = getattr(options, name)
        if value is not None:
            command += ["--" + name.replace("_", "-"), str(value)]
    for name in ("truncate_source", "target_prefix", "force"):
        if getattr(options, name):
            command.append("--" + name.replace("_", "-"))
    return command
