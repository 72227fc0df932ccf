r"""Compares fairseq-generate with stock fairseq and with every kind of EL-attention: BLEU, bytes and time.

    python benchmarks/compare.py DATA --path model.pt [--runs N] [--time-only] [--methods LIST] \
        [any option of fairseq-generate]

Makes the tables of "How much smaller is the decode state of real models?" and, with --time-only, "Is a small real
model faster?" in docs/benchmarks.md. Every run is fairseq-generate in a process of its own. If a hypothesis differs
from stock, no times are printed and the exit status is 1.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Iterator, Sequence

import sacrebleu
from tabulate import tabulate
from tqdm import tqdm

from fairseq_el import NoKernelsError
from fairseq_el.cards.check import usable_device
from fairseq_el.files import read_lines
from fairseq_el.scoring import Hypothesis, compare_hypotheses, read_generate_output, read_hypotheses

REPOSITORY = Path(__file__).resolve().parent.parent
# The stock task is fairseq's own throughout; with torch 2.6 or later it needs the plugin to load a checkpoint at all.
OPTIONS_OF = {
    "stock": ["--task", "translation"],
    "EL, kv": ["--el-self-attention", "kv"],
    "EL, el": ["--el-self-attention", "el"],
    "EL, shared-kv": ["--el-backend", "shared-kv"],
}
# Stock blocks no repeated n-gram on a CPU (README); for hypotheses to be the same, EL must block none either.
EL = ["--task", "el_translation", "--el-ngram-blocking", "stock"]


@dataclass
class Result:
    """The results of one method: texts by sentence, of the last run; times and bytes, one of each per run."""

    tokens: dict[int, list[Hypothesis[str]]] = field(default_factory=dict)
    hypotheses: dict[int, str] = field(default_factory=dict)
    references: dict[int, str] = field(default_factory=dict)
    seconds: list[float] = field(default_factory=list)
    process_seconds: list[float] = field(default_factory=list)
    peak_bytes: list[int] = field(default_factory=list)
    cross_attention_bytes: int = 0
    self_attention_bytes: int = 0


@contextlib.contextmanager
def workspace() -> Iterator[Path]:
    """A new directory for logs, which stays if something fails."""
    directory = Path(tempfile.mkdtemp(prefix="fairseq-el-"))
    yield directory
    shutil.rmtree(directory)


def run_logged(command: list[str], log: Path) -> Path:
    """Runs a command with its output in a file, and its messages in another, which it returns; shown if it fails."""
    messages = log.with_suffix(".messages")  # in one file they could come in the middle of a text
    with log.open("wb") as file, messages.open("wb") as errors:
        status = subprocess.run(command, stdout=file, stderr=errors, check=False).returncode
    if status != 0:
        output = "".join(path.read_text("utf-8", errors="replace")[-3000:] for path in (log, messages))
        sys.exit(f"{sys.argv[0]}: error: {' '.join(command)} ended with status {status}:\n{output}")
    return messages


def decode(method: str, options: list[str], directory: Path, result: Result, time_only: bool) -> None:
    """Runs fairseq-generate once; with ``time_only`` without the hooks that count bytes."""
    name = method.replace(", ", "-")
    report, log = directory / f"{name}.json", directory / f"{name}.log"
    counting = [str(REPOSITORY / "benchmarks" / "measured_generate.py"), str(report)]
    program = [sys.executable, *(["-m", "fairseq_cli.generate"] if time_only else counting)]
    task = ["--user-dir", str(REPOSITORY / "fairseq_el"), *([] if method == "stock" else EL), *OPTIONS_OF[method]]
    task += ["--required-batch-size-multiple", "1"]  # or the stock task of fairseq 0.12.3 drops the last sentences
    start = time.perf_counter()
    messages = run_logged([*program, *options, *task], log)
    result.process_seconds.append(time.perf_counter() - start)
    lines = read_lines(log, "the output of fairseq-generate").lines
    output = read_generate_output(lines)
    result.hypotheses, result.references = output.hypotheses, output.references
    result.tokens = read_hypotheses(lines)
    said = [*lines, *messages.read_text("utf-8", errors="replace").split("\n")]  # fairseqs differ in where they log
    (seconds,) = filter(None, (re.search(r"\bINFO\b.*\bTranslated .* in ([\d.]+)s", line) for line in said))
    result.seconds.append(float(seconds.group(1)))
    if time_only:
        return
    measured = json.loads(report.read_text())
    report.unlink()
    result.cross_attention_bytes = measured["cross_attention_bytes"]
    result.self_attention_bytes = measured["self_attention_bytes"]
    result.peak_bytes.append(measured["peak_cuda_bytes"] or measured["peak_resident_bytes"])


def compare(
    options: list[str], runs: int, directory: Path, time_only: bool = False, methods: Sequence[str] = tuple(OPTIONS_OF)
) -> dict[str, Result]:
    """Runs the methods in turn, and checks that they write the same hypotheses.

    Args:
        options: of fairseq-generate, from the data directory on.
        runs: of each method.
        directory: where logs are left.
        time_only: count no bytes, which takes time.
        methods: out of ``OPTIONS_OF``, stock first.
    """
    if "--cpu" not in options:
        try:
            usable_device()  # an error shows here; those of the programs are in their logs
        except NoKernelsError as error:
            sys.exit(f"{sys.argv[0]}: error: {error}")
    results = {method: Result() for method in methods}
    in_turn = [method for _ in range(runs) for method in methods]
    for method in tqdm(in_turn, desc="fairseq-generate", unit="run", leave=False, disable=None):
        decode(method, options, directory, results[method], time_only)
    stock, *others = results.values()
    for el in others:
        differing = compare_hypotheses(stock.tokens, el.tokens).differing
        if differing:
            sys.exit(
                f"{sys.argv[0]}: error: hypotheses of sentences {differing} differ from stock; logs are in {directory}"
            )
    return results


def table(results: dict[str, Result], references: list[str] | None = None) -> str:
    """The results side by side, and how they were made.

    Args:
        results: of :func:`compare`.
        references: one per sentence, in order (default: the targets as fairseq-generate prints them).
    """
    stock = results["stock"]
    sentences = sorted(stock.tokens)
    references = references or [stock.references[i] for i in sentences]
    metric = sacrebleu.BLEU()
    rows = []
    for method, result in results.items():
        identical = compare_hypotheses(stock.tokens, result.tokens).num_identical
        total, of_stock = (r.cross_attention_bytes + r.self_attention_bytes for r in (result, stock))
        rows.append(
            [
                method,
                f"{metric.corpus_score([result.hypotheses[i] for i in sentences], [references]).score:.2f}",
                f"{identical} of {len(sentences)}",
                f"{result.cross_attention_bytes:,}",
                f"{result.self_attention_bytes:,}",
                "" if result is stock else f"{of_stock / total:.1f}x less",
                f"{statistics.median(result.peak_bytes) / 2**20:.0f} MiB",
                f"{statistics.median(result.seconds):.2f} s",
            ]
        )
    headers = ["", "BLEU", "identical", "cross-attention bytes", "self-attention bytes", "both", "peak memory", "time"]
    return (
        tabulate(rows, headers=headers, colalign=("left",) + ("right",) * 7, disable_numparse=True)
        + f"\n\nBLEU: sacrebleu, {metric.get_signature()}\n"
        "EL keeps of each word in decoder self-attention its key and value (kv) or its hidden state (el); of the\n"
        "source the encoder's output, or with shared-kv also keys and values of every layer, once for all beams.\n"
        "Peak memory is that of the whole process, Python and torch included. Times are fairseq's own, medians of\n"
        f"{len(stock.seconds)} runs in turn."
    )


def table_of_times(results: dict[str, Result]) -> str:
    """Medians of the time that fairseq-generate prints and of the whole process, and medians of ratios to stock."""
    stock = results["stock"]
    rows = []
    for method, result in results.items():
        row = [method]
        for mine, of_stock in ((result.seconds, stock.seconds), (result.process_seconds, stock.process_seconds)):
            ratio = statistics.median(theirs / own for theirs, own in zip(of_stock, mine))
            row += [f"{statistics.median(mine):.2f} s", f"{min(mine):.2f} to {max(mine):.2f}", f"{ratio:.2f}x"]
        rows.append(row)
    headers = ["", "decoding", "", "faster", "whole process", "", "faster"]
    return (
        tabulate(rows, headers=headers, colalign=("left",) + ("right",) * 6, disable_numparse=True)
        + f"\n\nAll {len(stock.tokens)} hypotheses are stock's. Medians of {len(stock.seconds)} runs in turn; ratios "
        "too are medians over\nruns. Decoding is the time that fairseq-generate prints."
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, usage=argparse.SUPPRESS
    )
    parser.add_argument("--runs", type=int, default=3, help="runs of each method; medians are shown (default: 3)")
    parser.add_argument("--time-only", action="store_true", help="plain fairseq-generate, without counting bytes")
    parser.add_argument(
        "--methods", default="kv,el,shared-kv", help="which kinds of EL-attention, with commas (default: %(default)s)"
    )
    args, options = parser.parse_known_args()
    methods = ["stock", *(f"EL, {name}" for name in args.methods.split(","))]
    if not set(methods) <= set(OPTIONS_OF):
        parser.error(f"--methods must be out of kv,el,shared-kv; got {args.methods}")
    with workspace() as directory:
        results = compare(options, args.runs, directory, args.time_only, methods)
    print(table_of_times(results) if args.time_only else table(results))


if __name__ == "__main__":
    main()
