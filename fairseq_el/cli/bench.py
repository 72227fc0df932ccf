"""``fairseq-el bench``: decoding programs side by side."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import re
import shlex
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any, Callable, Iterator, List, Optional, Sequence, Tuple

from fairseq_el.bench import NAMES, Method, Settings, compare_programs, parse_method, parse_methods
from fairseq_el.cli.calibrate import run as calibrate
from fairseq_el.cli.options import check_directory, device_of, finite, not_negative, positive, threads
from fairseq_el.cli.parser import add_command
from fairseq_el.cli.streams import say_note, write_line
from fairseq_el.conversion import check_sums
from fairseq_el.dtypes import DTYPES
from fairseq_el.errors import OptionError, raise_problems
from fairseq_el.files import require_file
from fairseq_el.planning import num_cores

_DESCRIPTION = """\
Decodes the same sentences with the same weights in several programs, in turn, and prints one table. Outputs are checked
first: EL-attention must write what stock fairseq writes; if not, no times are reported and the exit status is 1.

methods: stock, el, shared-kv and auto (fairseq), hf (Hugging Face transformers, BART only) and ct2:TYPE (CTranslate2
with a compute type, as ct2:int8, and if wanted its threads, as ct2:int8:2x1 for two batches at a time with a thread
each). All but ct2 take a dtype of their own, as stock@bf16; el, shared-kv and auto also int8, for --el-weights int8.
el:python, shared-kv:python and auto:python decode in Python where el, shared-kv and auto use native code.
DATA may be a language model's, with lines that begin with prompts: stock, el, shared-kv and auto continue the first
--src-len tokens of each.
hf and ct2 need: pip install fairseq_el[bench]"""

_EXAMPLE = """\
example: 16 articles of 1,024 tokens, 64 words out, all programs:

  fairseq-el bench DATA --path model.pt --methods stock,el,hf,ct2:int8 --batch 16 --src-len 1024 --tgt-len 64"""

# fairseq-el bench topk and bench slim of earlier versions are programs of a checkout now.
_MOVED = {"topk": "topk_layers", "slim": "slim_training"}
_BENCHMARKS = Path(__file__).resolve().parent.parent.parent / "benchmarks"  # of a checkout; it is not installed


def add_parser(commands: Any, summary: str) -> None:
    parser = add_command(commands, "bench", run, summary, _DESCRIPTION, _EXAMPLE)
    parser.add_argument("data", nargs="?", metavar="DATA", help="directory that fairseq-preprocess wrote")
    parser.add_argument("--path", metavar="FILE", help="the checkpoint, as for fairseq-generate")
    parser.add_argument("--user-dir", metavar="DIR", help="of your own, which registers the architecture")
    parser.add_argument("--calibrate", action="store_true", help=argparse.SUPPRESS)  # now a command of its own
    _add_methods(parser.add_argument_group("methods"))
    _add_sentences(parser.add_argument_group("what is decoded"))
    _add_search(parser.add_argument_group("search (as the options of fairseq-generate)"))
    _add_output(parser.add_argument_group("output"))


def _add_methods(group: Any) -> None:
    group.add_argument(
        "--methods",
        default="stock,el",
        metavar="LIST",
        help="names with commas, or all: those that are installed and can decode the model (default: %(default)s)",
    )
    group.add_argument(
        "--dtype", choices=list(DTYPES), default="fp32", help="of methods that name none (default: %(default)s)"
    )
    group.add_argument(
        "--baseline", metavar="METHOD", help="which one the others are compared with (default: the first)"
    )
    group.add_argument("--self-attention", choices=["kv", "el"], help="--el-self-attention of el, shared-kv and auto")
    group.add_argument(
        "--threads", type=threads, metavar="N", help="of every program (default: OMP_NUM_THREADS, or all)"
    )
    group.add_argument(
        "--device",
        choices=["cpu", "cuda"],
        help="where all of them decode (default: cuda where there is a card)",
    )
    group.add_argument("--runs", type=positive, default=5, metavar="N", help="timed rounds (default: %(default)s)")
    group.add_argument("--warmup", type=positive, default=1, metavar="N", help="before them (default: %(default)s)")
    group.add_argument(
        "--no-check-others", action="store_true", help="let hf write other outputs than stock; the table says how many"
    )


def _add_sentences(group: Any) -> None:
    group.add_argument(
        "--gen-subset",
        dest="subset",
        default="test",
        metavar="NAME",
        help="split of the data set (default: %(default)s)",
    )
    group.add_argument("-s", "--source-lang", metavar="LANG")
    group.add_argument("-t", "--target-lang", metavar="LANG")
    group.add_argument(
        "--batch",
        dest="batches",
        type=_numbers,
        default=(16,),
        metavar="N[,N...]",
        help="the first N sentences (default: 16)",
    )
    group.add_argument("--whole-set", action="store_true", help="all sentences, in batches of --batch of like lengths")
    group.add_argument(
        "--src-len",
        dest="src_lens",
        type=_numbers,
        default=(),
        metavar="N[,N...]",
        help="cut sources to N tokens, with the eos (default: only to what the model reads), or prompts, without one",
    )
    group.add_argument(
        "--tgt-len",
        type=not_negative,
        default=0,
        metavar="N",
        help="write exactly N words; 0: until outputs end, 200 at most (default: %(default)s)",
    )
    group.add_argument(
        "--per-step", action="store_true", help="also time N/4 words, for the time of a step alone; needs --tgt-len"
    )


def _add_search(group: Any) -> None:
    group.add_argument("--beam", type=positive, default=4, metavar="N", help="(default: %(default)s)")
    group.add_argument("--no-repeat-ngram-size", type=not_negative, default=0, metavar="N")
    group.add_argument("--diverse-beam-groups", type=positive, default=0, metavar="N", help="not for hf and ct2")
    group.add_argument("--lenpen", type=finite, default=1.0, metavar="X", help="(default: %(default)s)")


def _add_output(group: Any) -> None:
    group.add_argument("--out", type=Path, metavar="DIR", help="write bench.json, bench.md and bench.png there")
    group.add_argument("--json", action="store_true", help="print everything for programs, instead of the table")
    group.add_argument("--force", action="store_true", help="let --out overwrite its files")


def run(options: argparse.Namespace) -> int:
    if options.calibrate:
        if options.data is not None or options.path is not None or options.out is not None:
            raise OptionError("--calibrate decodes nothing: it goes with --json alone, without DATA, --path and --out")
        say_note("bench --calibrate is fairseq-el calibrate now")
        return calibrate(options)
    settings = _settings(options)
    if options.out is not None:
        check_directory(options.out, NAMES, options.force, [options.path])
    _require_dictionaries(Path(options.data))
    report = compare_programs(settings)
    write_line(json.dumps(report.as_dict(), indent=2) if options.json else report.as_text())
    if options.out is not None:
        report.write(options.out, options.force)
    return 0


def _require_dictionaries(data: Path) -> None:
    """Refuses data without dictionaries before programs start: each would take seconds to find out."""
    if not any(data.glob("dict.*.txt")) and not (data / "dict.txt").is_file():
        raise OptionError(
            f"DATA must be a directory that fairseq-preprocess wrote; {data} has neither dict.LANGUAGE.txt nor dict.txt"
        )


def _settings(options: argparse.Namespace) -> Settings:
    methods = parse_methods(options.methods, options.dtype)
    baseline = parse_method(options.baseline, options.dtype) if options.baseline else methods[0]
    if options.data is None or options.path is None:
        options.parser.error("bench needs DATA and --path model.pt")
    raise_problems(list(_problems(options, methods, baseline)))
    require_file(options.path, "--path must be a checkpoint that fairseq wrote")
    check_sums(options.path)
    given = {field.name: getattr(options, field.name) for field in fields(Settings) if hasattr(options, field.name)}
    given.update(
        methods=tuple(methods),
        baseline=baseline,
        threads=options.threads or _threads(),
        device=device_of(options.device),
        check_others=not options.no_check_others,
        command=options.command_line,
    )
    return Settings(**given)


def _problems(options: argparse.Namespace, methods: List[Method], baseline: Method) -> Iterator[str]:
    """Says what is wrong with the options; files are looked at after them."""
    if baseline not in methods:
        yield f"--baseline must be one of the methods, {', '.join(m.label for m in methods)}; got {options.baseline}"
    if not Path(options.data).is_dir():
        yield f"DATA must be a directory that fairseq-preprocess wrote; there is no directory {options.data}"
    if options.user_dir is not None and not Path(options.user_dir).is_dir():
        yield f"--user-dir must be a directory with a Python package; there is no directory {options.user_dir}"
    if options.per_step and options.tgt_len < 4:
        yield f"--per-step needs a --tgt-len from 4 on; got {options.tgt_len}"
    if options.diverse_beam_groups and options.beam % options.diverse_beam_groups:
        yield (
            f"--beam must be a multiple of --diverse-beam-groups; got {options.beam} and {options.diverse_beam_groups}"
        )


def _threads() -> int:
    asked = os.environ.get("OMP_NUM_THREADS", "")
    if re.fullmatch(r"[1-9][0-9]*", asked):
        return int(asked)
    return num_cores()


def _numbers(text: str) -> Tuple[int, ...]:
    numbers = tuple(positive(part) for part in text.split(","))
    if len(set(numbers)) < len(numbers):
        raise argparse.ArgumentTypeError(f"must name every number once; got {text!r}")
    return numbers


def moved_benchmark(given: Sequence[str]) -> Optional[Callable[[List[str]], int]]:
    """The program that a command line of earlier versions ran; None if it is another command line.

    ``fairseq-el bench topk --path model.pt`` decodes a data set in the directory ``topk``.

    Raises:
        OptionError: this is not a checkout of the repository.
    """
    is_moved = len(given) > 1 and given[0] == "bench" and given[1] in _MOVED
    if not is_moved or any(word.partition("=")[0] == "--path" for word in given):
        return None
    name = _MOVED[given[1]]
    command = f"python benchmarks/{name}.py"
    if not (_BENCHMARKS / f"{name}.py").is_file():
        raise OptionError(
            f"fairseq-el bench {given[1]} is a program of its own now, and only in a checkout of the repository of "
            f"fairseq_el; there: {shlex.join([*command.split(), *given[2:]])}"
        )
    say_note(f"bench {given[1]} is {command} now")
    if str(_BENCHMARKS) not in sys.path:
        sys.path.insert(0, str(_BENCHMARKS))
    program: Callable[[List[str]], int] = importlib.import_module(name).main
    return program
