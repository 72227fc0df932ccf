"""``fairseq-el verify``: checks that EL-attention writes the hypotheses that stock fairseq writes."""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from pathlib import Path
from typing import Any, Dict, List, Optional

from fairseq.tasks import TASK_REGISTRY
from fairseq.utils import split_paths
from tqdm import tqdm

import fairseq_el
from fairseq_el.cards.check import usable_device
from fairseq_el.cli.parser import add_command
from fairseq_el.cli.streams import write_line
from fairseq_el.conversion import load_checkpoint
from fairseq_el.errors import FairseqElError, OptionError, shortened
from fairseq_el.files import read_lines, require_file
from fairseq_el.scoring import Agreement, Hypothesis, compare_hypotheses, read_hypotheses
from fairseq_el.subprocesses import run_program
from fairseq_el.tasks import el_task_for, import_user_directory

_DESCRIPTION = """\
Decodes a data set with stock fairseq and with EL-attention, each in a process of its own, and says whether they wrote
the same hypotheses, how many differ and where first, and the largest gap between scores of the same words. With --path
given twice, compares two checkpoints, both decoded by stock fairseq. --user-dir is for architectures and tasks of your
own; this package is loaded beside it.

The exit status is 0 if all hypotheses are the same, and 1 if some are not. DATA comes first; all other options are
those of fairseq-generate, and go to both."""

_EXAMPLE = """\
example:

  fairseq-el verify DATA --path model.pt --beam 5 --batch-size 64"""

_PREFIX = "el_"


def add_parser(commands: Any, summary: str) -> None:
    parser = add_command(
        commands,
        "verify",
        run,
        summary,
        _DESCRIPTION,
        _EXAMPLE,
        passes_options_on=True,
    )
    parser.add_argument("data", metavar="DATA", help="directory that fairseq-preprocess wrote")
    parser.add_argument(
        "--path", action="append", required=True, metavar="CKPT", help="checkpoint; twice to compare two"
    )
    parser.add_argument("--task", metavar="NAME", help="stock's name of the task (default: the checkpoint's)")
    parser.add_argument("--user-dir", metavar="DIR", help="of your own, with architectures and tasks")
    parser.add_argument("--json", action="store_true", help="print the result for programs")


def run(options: argparse.Namespace) -> int:
    if len(options.path) > 2:
        raise OptionError(f"--path can be given once or twice; got {len(options.path)}")
    shards = {"--num-shards", "--shard-id"} & {option.partition("=")[0] for option in options.rest}
    if shards:  # stock's fairseq-generate ignores them
        raise OptionError(f"verify decodes whole splits and has no shards; leave out {' and '.join(sorted(shards))}")
    if not Path(options.data).is_dir():
        raise OptionError(
            f"DATA must be a directory that fairseq-preprocess wrote; there is no directory {options.data}"
        )
    for path in [path for ensemble in options.path for path in split_paths(ensemble)]:
        require_file(path, "--path must be a checkpoint that fairseq wrote")
    if options.user_dir is not None:
        import_user_directory(options.user_dir)
    compared = _compared(options)
    if "--cpu" not in options.rest:
        usable_device()  # warns here: the warning of fairseq-generate is in its log, and stock fairseq has none
    found = {}
    for name in tqdm(list(compared), desc="fairseq-generate", unit="run", leave=False, disable=None):
        arguments = [options.data, "--path", *compared[name], *options.rest]
        found[name] = _decode(name, arguments, options.user_dir)
    one, other = found.values()
    agreement = compare_hypotheses(one, other)
    write_line(_as_json(agreement, list(found)) if options.json else _as_text(agreement, list(found)))
    return 1 if agreement.differing else 0


def _compared(options: argparse.Namespace) -> Dict[str, List[str]]:
    """The two ways to decode, by name: checkpoint and task for fairseq-generate.

    Raises:
        OptionError: the task has no twin with EL-attention, or the checkpoints are one.
    """
    tasks = [options.task or load_checkpoint(split_paths(path)[0], "--path").task for path in options.path]
    if len(tasks) == 1:
        el_task = el_task_for(tasks[0])
        if el_task not in TASK_REGISTRY or el_task == tasks[0]:
            known = sorted(name[len(_PREFIX) :] for name in TASK_REGISTRY if name.startswith(_PREFIX))
            raise OptionError(f"--task must be one of {', '.join(known)}; got {shortened(tasks[0])}")
        el = ["--task", el_task, "--el-ngram-blocking", "stock"]
        return {"stock": [options.path[0], "--task", tasks[0]], "EL": [options.path[0], *el]}
    compared = {path: [path, "--task", task] for path, task in zip(options.path, tasks)}
    if len(compared) == 1:
        raise OptionError(f"--path must name two different checkpoints; got {options.path[0]} twice")
    return compared


def _decode(name: str, arguments: List[str], user_dir: Optional[str]) -> Dict[int, List[Hypothesis[str]]]:
    """The hypotheses that one run of fairseq-generate writes.

    Args:
        user_dir: of the user's own.

    Raises:
        FairseqElError: it failed, or wrote no hypotheses.
    """
    # Without the last option, the stock task of fairseq 0.12.3 drops the last sentences of a data set.
    plugin = ["--required-batch-size-multiple", "1", "--user-dir"]
    with tempfile.TemporaryDirectory() as directory:
        plugin.append(fairseq_el.__path__[0] if user_dir is None else _beside(directory, user_dir, arguments))
        output, log = Path(directory, "output.txt"), Path(directory, "log.txt")
        run_program("fairseq_cli.generate", [*arguments, *plugin], output, log, f"fairseq-generate of {name}")
        written = output.stat().st_size
        hypotheses = read_hypotheses(read_lines(output, "the output").lines) if written else {}
    if not hypotheses:
        raise FairseqElError(f"fairseq-generate of {name} wrote no hypotheses: was it given --quiet or an empty split?")
    return hypotheses


def _beside(directory: str, user_dir: str, arguments: List[str]) -> str:
    """A user directory for fairseq-generate that has this package and the user's: fairseq takes no more than one."""
    package = Path(directory, "fairseq_el_and_yours")
    package.mkdir()
    task = arguments[arguments.index("--task") + 1]
    own = task[len(_PREFIX) :] if task.startswith(_PREFIX) else task
    (package / "__init__.py").write_text(
        f"import sys\nsys.path.append({str(Path(fairseq_el.__path__[0]).parent)!r})\n"
        "import fairseq_el.plugin\nfrom fairseq_el.tasks import el_task_for, import_user_directory\n"
        f"import_user_directory({os.path.abspath(user_dir)!r})\nel_task_for({own!r})\n",
        encoding="utf-8",
    )
    return str(package)


def _as_json(agreement: Agreement[str], names: List[str]) -> str:
    return json.dumps({"compared": names, "same": not agreement.differing, **agreement.as_dict()}, indent=2)


def _as_text(agreement: Agreement[str], names: List[str]) -> str:
    gap = f"Scores of the same words differ by at most {agreement.largest_gap:.2g}."
    if agreement.first is None:
        return f"All hypotheses of {agreement.sentences} sentences are the same in {names[0]} and {names[1]}. {gap}"
    lines = [
        f"Hypotheses of {len(agreement.differing)} of {agreement.sentences} sentences differ between {names[0]} and "
        f"{names[1]}. {gap}",
        f"The first is sentence {agreement.differing[0]}:",
    ]
    for name, hypotheses in zip(names, agreement.first):
        lines += [f"  {name}: {hypothesis.score:.4f}  {hypothesis.tokens}" for hypothesis in hypotheses] or [
            f"  {name}: nothing"
        ]
    return "\n".join(lines)
