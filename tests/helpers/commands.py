"""Running fairseq's programs as a user does, and reading what they print."""

from __future__ import annotations

import multiprocessing
import os
import re
import runpy
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Callable

import torch

REPOSITORY = Path(__file__).resolve().parent.parent.parent
USER_DIR = str(REPOSITORY / "fairseq_el")
EXAMPLE = REPOSITORY / "examples" / "deen"
SENTENCEPIECE = ["--bpe", "sentencepiece", "--sentencepiece-model", str(EXAMPLE / "spm.model")]
LOSE_NO_SENTENCE = ["--required-batch-size-multiple", "1"]  # stock fairseq 0.12.3 drops the last ones otherwise


# Programs are run in forks of a process that has imported no more than this, as each of them would do first.
_SERVER = multiprocessing.get_context("forkserver")
_SERVER.set_forkserver_preload(["fairseq.options", "fairseq.tasks", "fairseq.models", "fairseq.trainer"])


def run(
    program: str,
    *args: object,
    cwd: Path | None = None,
    stdin: str = "",
    fails: bool = False,
    fresh: bool = False,
    preexec_fn=None,
    **env: str,
):
    """Runs ``fairseq-<program>`` in a process of its own, without the repository on its import path.

    Args:
        fresh: in a new process, instead of a fork of one that has imported fairseq; so it is with ``preexec_fn`` and
            other environments.

    Returns the finished process, with ``stdout`` and ``stderr`` as text; fails the test if the exit status is not as
    expected.
    """
    command = [str(Path(sys.executable).parent / f"fairseq-{program}"), *map(str, args)]
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    environment.update({"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore", **env})
    if fresh or preexec_fn is not None or env:
        process = subprocess.run(
            command,
            cwd=cwd,
            input=stdin.encode(),
            env=environment,
            preexec_fn=preexec_fn,
            capture_output=True,
            check=False,
        )
        process.stdout, process.stderr = process.stdout.decode(), process.stderr.decode()  # with CR as it is
    else:
        process = _run_forked(command, cwd, stdin, environment)
    assert (process.returncode != 0) == fails, (
        f"{' '.join(command)}\n{process.stdout[-2000:]}\n{process.stderr[-4000:]}"
    )
    return process


def _run_forked(
    command: list[str], cwd: Path | None, stdin: str, environment: dict[str, str]
) -> subprocess.CompletedProcess:
    with tempfile.TemporaryDirectory() as directory:
        streams = [Path(directory, name) for name in ("stdin", "stdout", "stderr")]
        streams[0].write_text(stdin, encoding="utf-8")
        process = _SERVER.Process(target=_become, args=(command, str(cwd or os.getcwd()), environment, streams))
        process.start()
        process.join()
        printed = [stream.read_bytes().decode() if stream.exists() else "" for stream in streams[1:]]
    return subprocess.CompletedProcess(command, process.exitcode, *printed)


def _become(command: list[str], cwd: str, environment: dict[str, str], streams: list[Path]) -> None:
    for number, stream in enumerate(streams):
        os.dup2(os.open(stream, os.O_RDONLY if number == 0 else os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
    sys.stdin = os.fdopen(0, encoding="utf-8")  # that of a multiprocessing process is closed
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(cwd)
    own = (str(REPOSITORY), str(REPOSITORY / "tests"))
    sys.path[:] = [
        str(Path(command[0]).parent),
        *(e for e in sys.path if e and not e.startswith(own[1]) and e != own[0]),
    ]
    sys.argv = command
    torch.set_num_threads(int(environment["OMP_NUM_THREADS"]))
    # As in a process of its own: otherwise workers that load data would come from another server, after its imports.
    multiprocessing.set_start_method(multiprocessing.get_all_start_methods()[0], force=True)
    try:
        runpy.run_path(command[0], run_name="__main__")
    except SystemExit as ended:
        sys.exit(0 if ended.code is None else ended.code)  # None is no success to Python 3.8's multiprocessing
    except Exception:
        sys.excepthook(*sys.exc_info())  # as the interpreter does, and multiprocessing does not
        sys.exit(1)


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


def train_language_model(directory: Path, train_text: Path, test_text: Path, *options: str) -> None:
    """Runs ``scripts/train_language_model.sh``."""
    script = str(REPOSITORY / "scripts" / "train_language_model.sh")
    environment = {**os.environ, "FAIRSEQ_BIN": f"{Path(sys.executable).parent}/", "OMP_NUM_THREADS": "1"}
    command = [script, str(train_text), str(test_text), str(directory), *options]
    process = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr[-3000:]


def bundled_pieces(language: str, count: int) -> str:
    """The first bundled captions of a language, split into pieces of sentencepiece, one caption in each line."""
    import sentencepiece  # only where it is needed: few of the programs use it

    model = sentencepiece.SentencePieceProcessor(model_file=str(EXAMPLE / "spm.model"))
    captions = (EXAMPLE / f"captions.{language}").read_text(encoding="utf-8").splitlines()[:count]
    return "".join(" ".join(model.encode(caption, out_type=str)) + "\n" for caption in captions)


def documented_python(containing: str) -> str:
    """The one Python block of README and docs that contains a text."""
    pages = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md"))]
    blocks = [b for page in pages for b in re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.S)]
    (block,) = [block for block in blocks if containing in block]
    return block


def hypotheses(output: str) -> dict[int, list[tuple[float, str]]]:
    """The ``H-`` lines by sentence, in the order printed: score and tokens."""
    result: dict[int, list[tuple[float, str]]] = {}
    for line in output.split("\n"):
        if line.startswith("H-"):
            index, score, tokens = line[2:].split("\t")
            result.setdefault(int(index), []).append((float(score), tokens))
    return result


def texts(output: str, prefix: str) -> list[tuple[str, str]]:
    """The lines of a kind, sorted: sentence and last column (not the score in between)."""
    found = [line.split("\t") for line in output.split("\n") if line.startswith(f"{prefix}-")]
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
