"""Small jobs without a model: results that are made from the number of a line, and decoding in a shuffled order."""

from __future__ import annotations

import random
import time
from pathlib import Path

from fairseq_el.jobs import Hypothesis, Result, Run, Share, describe_file, formatted, open_job

FINGERPRINT = {"checkpoints": ["0" * 64], "options": {"beam": 5, "lenpen": 1.0}}
HARD_TEXTS = ["", "a\u2028b\x85c\x0bd", "\U0001f600 \xdf", "half \ud800", 'say "{}" \\', "\t\0"]


def result_of(number: int, problem: str = "") -> Result:
    """The result of a line, with scores that need all digits."""
    text = f"text {number} {HARD_TEXTS[number % len(HARD_TEXTS)]}"
    if number % 7 == 3 or problem:
        return Result(number, "", (), problem)
    scores = (-0.1 - number / 3, float("-inf") if number % 5 == 0 else -1 / 7)
    pairs = ((0, 1), (1, 0)) if number % 2 else None
    hypotheses = (
        Hypothesis(text, f"words {number}", sum(scores) / 2, scores, pairs),
        Hypothesis("b", "b", -9.0, (-9.0,)),
    )
    return Result(number, f"source {number}", hypotheses)


def lines_of(count: int) -> list[str]:
    return [f"line {number}" for number in range(count)]


def write_input(path: Path, count: int) -> None:
    path.write_text("".join(line + "\n" for line in lines_of(count)), "utf-8")


def run_of(source: Path, **changes) -> Run:
    return Run(**{"fingerprint": FINGERPRINT, "input": describe_file(source), "versions": {"torch": "1.2"}, **changes})


def expected(count: int, name: str = "text") -> bytes:
    """The output for so many lines."""
    return "".join(formatted(result_of(number), name) for number in range(count)).encode("utf-8", "surrogatepass")


def decode(work: Path, *, resume=False, share=None, group=4, seed=0, seconds=0.0, log=None, **options) -> None:
    """Decodes ``work/in.txt`` to ``work/out.txt``.

    Args:
        group: results that are written at once.
        seconds: that each group takes.
        log: a file to which the numbers of lines are appended when they are decoded.
    """
    lines = (work / "in.txt").read_text("utf-8").split("\n")[:-1]
    output, journal = work / "out.txt", work / "out.txt.journal"
    with open_job(run_of(work / "in.txt"), output, journal, resume=resume, share=share or Share(), **options) as job:
        wanted = [number for number, line in enumerate(lines) if job.wants(number, line)]
        random.Random(seed).shuffle(wanted)
        for begin in range(0, len(wanted), group):
            numbers = wanted[begin : begin + group]
            if log is not None:
                with log.open("a") as file:
                    file.write("".join(f"{number}\n" for number in numbers))
            time.sleep(seconds)
            job.write(*map(result_of, numbers))
        job.finish()
