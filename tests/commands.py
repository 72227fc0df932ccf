"""Running fairseq's programs as a user does, and reading what they print."""

from __future__ import annotations

import multiprocessing
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Callable

REPOSITORY = Path(__file__).resolve().parent.parent
USER_DIR = str(REPOSITORY / "fairseq_el")
EXAMPLE = REPOSITORY / "examples" / "deen"
SENTENCEPIECE = ["--bpe", "sentencepiece", "--sentencepiece-model", str(EXAMPLE / "spm.model")]
LOSE_NO_SENTENCE = ["--required-batch-size-multiple", "1"]  # stock fairseq 0.12.3 drops the last ones otherwise


def run(
    program: str,
    *args: object,
    cwd: Path | None = None,
    stdin: str = "",
    fails: bool = False,
    preexec_fn=None,
    **env: str,
):
    """Runs ``fairseq-<program>`` in a process of its own, without the repository on its import path.

    Returns the finished process, with ``stdout`` and ``stderr`` as text; fails the test if the exit status is not as
    expected.
    """
    command = [str(Path(sys.executable).parent / f"fairseq-{program}"), *map(str, args)]
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    environment.update({"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore", **env})
    process = subprocess.run(
        command,
        cwd=cwd,
        input=stdin,
        env=environment,
        preexec_fn=preexec_fn,
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=False,
    )
    assert (process.returncode != 0) == fails, (
        f"{' '.join(command)}\n{process.stdout[-2000:]}\n{process.stderr[-4000:]}"
    )
    return process


def kill_in_the_middle(arguments: list[str], is_middle: Callable[[], object]) -> None:
    """Has ``fairseq-el`` run in a copy of this process, and kills it, and what it has started, when it is time to."""
    from fairseq_el.cli import main

    def run_in_group() -> None:
        os.setsid()
        main(arguments)

    process = multiprocessing.get_context("fork").Process(target=run_in_group)
    process.start()
    deadline = time.monotonic() + 300
    while not is_middle():
        assert process.is_alive() and time.monotonic() < deadline, f"{arguments} was over before it was killed"
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.join()


def readme_block(containing: str) -> str:
    """The one Python block of the README that contains a text."""
    blocks = re.findall(r"```python\n(.*?)```", (REPOSITORY / "README.md").read_text(encoding="utf-8"), re.S)
    (block,) = [block for block in blocks if containing in block]
    return block


def hypotheses(output: str) -> dict[int, list[tuple[float, str]]]:
    """The ``H-`` lines by sentence, in the order printed: score and tokens."""
    result: dict[int, list[tuple[float, str]]] = {}
    for line in output.splitlines():
        if line.startswith("H-"):
            index, score, tokens = line[2:].split("\t")
            result.setdefault(int(index), []).append((float(score), tokens))
    return result


def texts(output: str, prefix: str) -> list[tuple[str, str]]:
    """The lines of a kind, sorted: sentence and last column (not the score in between)."""
    found = [line.split("\t") for line in output.splitlines() if line.startswith(f"{prefix}-")]
    return sorted((columns[0], columns[-1]) for columns in found)


def assert_same_hypotheses(mine: str, theirs: str, num_sentences: int) -> None:
    """Identical tokens for every sentence, scores within 1e-4."""
    mine_by_id, theirs_by_id = hypotheses(mine), hypotheses(theirs)
    assert sorted(theirs_by_id) == list(range(num_sentences))
    assert mine_by_id.keys() == theirs_by_id.keys()
    for index, expected in theirs_by_id.items():
        assert [tokens for _, tokens in mine_by_id[index]] == [tokens for _, tokens in expected], index
        for (score, _), (expected_score, _) in zip(mine_by_id[index], expected):
            assert abs(score - expected_score) <= 1e-4, index
