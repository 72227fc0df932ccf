"""``fairseq-el generate``: text in, text out, a line for a line, in the order of the input."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, List, Optional, Union

from fairseq_el.cli.fairseq_import import import_fairseq
from fairseq_el.cli.generate_job import is_pipe_of_shell
from fairseq_el.cli.options import check_file, not_negative, positive, size_of_memory
from fairseq_el.cli.parser import add_command
from fairseq_el.errors import raise_problems
from fairseq_el.files import Paths, require_file
from fairseq_el.jobs import FORMATS

_DESCRIPTION = """\
Decodes text, and writes a line for every line, in the order of the input. The hypotheses of a line are those of stock
fairseq with that line in a batch of its own: batches, windows, memory and workers change only the speed.

DATA, the directory with the dictionaries, comes first. All other options are those of fairseq-interactive
(fairseq-interactive --help), such as -s and -t, --path a.pt:b.pt for an ensemble, --task, --bpe and --tokenizer,
--beam, --lenpen, --sampling, --nbest, --constraints, --user-dir for a plugin of your own, and the options --el-* of the
tasks el_*. With a language model, lines are prompts, and the output has the prompts with their continuations."""

_EXAMPLE = """\
examples:

  fairseq-el generate DATA -s de -t en --path model.pt --bpe sentencepiece --sentencepiece-model spm.model \\
    --beam 5 --input in.txt --output out.txt
  fairseq-el generate DATA ... < in.txt > out.txt                       # a pipe
  fairseq-el generate DATA ... --input in.txt --output out.txt --resume      # after a crash
  fairseq-el generate DATA ... --input in.txt --output out.txt --workers 4   # processes: of cards, or cores
  srun fairseq-el generate DATA ... --input in.txt --output out.txt --shard env && fairseq-el merge out.txt.journal

Input and output are UTF-8. Only a newline ends a line. An empty line gives an empty line. Every result is written into
OUT.journal/ as soon as it is there: see docs/generate.md and docs/crashes.md."""

_ALL = "all"
LOCAL, RAY = "local", "ray"


def add_parser(commands: Any, summary: str) -> None:
    parser = add_command(commands, "generate", _run, summary, _DESCRIPTION, _EXAMPLE, passes_options_on=True)
    parser.add_argument("data", metavar="DATA", help="directory with the dictionaries, as fairseq-preprocess writes it")
    _add_text(parser.add_argument_group("text"))
    _add_batches(parser.add_argument_group("batches (they change no result)"))
    _add_failures(parser.add_argument_group("lines that can't be decoded"))
    _add_journal(parser.add_argument_group("journal"))
    _add_workers(parser.add_argument_group("several processes (they change no result)"))
    report = parser.add_argument_group("progress, on standard error")
    report.add_argument("--quiet", action="store_true", help="show no progress")
    report.add_argument("--stats", metavar="FILE", help="write numbers of lines and tokens, and times, as JSON")


def _add_text(group: Any) -> None:
    group.add_argument("--input", metavar="FILE", default="-", help="lines to decode (default: standard input)")
    group.add_argument(
        "--output", metavar="FILE", default="-", help="has its name when it is whole (default: standard output)"
    )
    group.add_argument(
        "--force", action="store_true", help="let --output and --stats replace their files, and a finished journal"
    )
    group.add_argument(
        "--format",
        choices=FORMATS,
        default="text",
        help="text: the best hypothesis; jsonl: a JSON object a line, with all of --nbest, scores (natural logarithms) "
        "and alignments; fairseq: the lines S-, H-, D-, P- and A- of fairseq-interactive (default: %(default)s)",
    )
    group.add_argument(
        "--target-prefix", action="store_true", help="lines have, after a tab, words that their output begins with"
    )


def _add_batches(group: Any) -> None:
    group.add_argument(
        "--window",
        type=_window,
        metavar="N",
        help="lines to read ahead and sort by length; 0 leaves them in their order, all reads all (default: eight "
        "batches)",
    )
    group.add_argument(
        "--memory",
        type=size_of_memory,
        metavar="SIZE",
        help="batches as large as fit into it, in each process, as 14GiB (default: what is free); --batch-size and "
        "--max-tokens give them a size of their own",
    )


def _add_failures(group: Any) -> None:
    group.add_argument(
        "--truncate-source", action="store_true", help="cut sources that are longer than the model reads"
    )
    group.add_argument(
        "--max-failures",
        type=not_negative,
        default=0,
        metavar="N",
        help="leave so many lines empty and name them at the end, with exit status 1, before giving up (default: 0)",
    )


def _add_journal(group: Any) -> None:
    group.add_argument(
        "--resume",
        action="store_true",
        help="go on with the job of the journal, if there is one: it must be the same in all that changes results",
    )
    where = group.add_mutually_exclusive_group()
    where.add_argument(
        "--journal",
        metavar="DIR",
        help="where results are as soon as they are there (default: OUT.journal beside --output OUT, else none)",
    )
    where.add_argument("--no-journal", action="store_true", help="write none; the job can't be resumed")


def _add_workers(group: Any) -> None:
    how = group.add_mutually_exclusive_group()
    how.add_argument(
        "--workers",
        type=positive,
        metavar="N",
        help="processes that share the lines, each with a card or its part of the cores (default: 1)",
    )
    how.add_argument(
        "--shard",
        metavar="i/N",
        help="decode every Nth line only, beginning with line i from 0; env: as the variables of torchrun, srun or a "
        "job array of SLURM say; fairseq-el merge then writes the output",
    )
    group.add_argument(
        "--engine",
        choices=(LOCAL, RAY),
        default=LOCAL,
        help="what runs the workers: torch's elastic agent on this machine, or actors of Ray (default: %(default)s)",
    )
    group.add_argument(
        "--restarts", type=not_negative, default=3, metavar="N", help="of workers that die (default: %(default)s)"
    )


def _window(text: str) -> Union[int, str]:
    return _ALL if text == _ALL else not_negative(text)


def _run(options: argparse.Namespace) -> int:
    options.journal = _journal_of(options)
    raise_problems(_problems(options))
    _check_files(options)
    import_fairseq()
    if options.engine == LOCAL and (options.workers or 1) > 1:
        from fairseq_el.cli.generate_workers import run_job_with_workers

        return run_job_with_workers(options)
    from fairseq_el.cli.generate_job import run_job

    return run_job(options)


def _journal_of(options: argparse.Namespace) -> Optional[Path]:
    if options.no_journal:
        return None
    if options.journal is not None:
        return Path(options.journal)
    return None if options.output == "-" else Path(options.output + ".journal")


def _problems(options: argparse.Namespace) -> List[str]:
    problems = []
    if options.resume and options.journal is None:
        problems.append("--resume needs a journal to go on with: give --output FILE or --journal DIR")
    many = "--workers" if (options.workers or 1) > 1 and options.engine == LOCAL else None
    many = "--shard" if options.shard is not None else many
    if many is not None:
        if options.journal is None:
            problems.append(f"{many} needs a journal, which all processes write to; leave out --no-journal")
        if options.input == "-" or is_pipe_of_shell(options.input) or options.output == "-":
            problems.append(
                f"{many} needs files: --input FILE, which all processes read, and --output FILE, whose journal they "
                "write to"
            )
    if options.shard is not None and options.engine == RAY:
        problems.append("--shard is for processes that do not know of each other, not for --engine ray; leave one out")
    return problems


def _check_files(options: argparse.Namespace) -> None:
    """Refuses files before anything is computed; the output is looked at when the job is opened."""
    inputs: Paths = [None if options.input == "-" else options.input]
    if options.input != "-" and not is_pipe_of_shell(options.input):
        require_file(options.input, "--input must be a file with lines of text")
    if options.stats is not None:
        check_file(Path(options.stats), options.force, "--stats", [*inputs, options.output])
