"""``fairseq-el generate --workers``: torch's elastic agent, workers that are killed, and signals."""

from __future__ import annotations

import json
import os
import random
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from processes import NEEDS_FORK
from tiny_commands import Command, wait_until

from fairseq_el.cli import main

pytestmark = NEEDS_FORK


@pytest.fixture(scope="module")
def command(tmp_path_factory):
    return Command(tmp_path_factory.mktemp("work"), 400)


@pytest.fixture(autouse=True)
def directory(command, monkeypatch):
    monkeypatch.chdir(command.directory)


@pytest.fixture(scope="module")
def expected(command):
    return command.undisturbed()


def workers(output: str) -> dict[str, int]:
    """Process numbers of the workers that have written their status."""
    found = {}
    for path in Path(f"{output}.journal").glob("status-*.json"):
        status = json.loads(path.read_text())
        found[status["worker"]] = status["pid"]
    return found


def test_two_workers(command, expected):
    process = command.start("--workers", 2, "--stats", "stats.json", output="two.txt")
    said = process.communicate()[1]
    assert (process.returncode, said) == (0, "")
    assert Path("two.txt").read_bytes() == expected
    assert command.decoded("two.txt") == [200, 200]
    assert json.loads(Path("stats.json").read_text())["lines"] == 400


@pytest.mark.long
def test_a_worker_is_killed(command, expected):
    """The agent stops the other one, and both go on."""
    process = command.start("--workers", 2, "--batch-size", 1, output="killed.txt")
    wait_until(lambda: len(workers("killed.txt")) == 2 and min(command.decoded("killed.txt")) > 20, process)
    os.kill(workers("killed.txt")["1"], signal.SIGKILL)
    said = process.communicate()[1]
    assert process.returncode == 0
    assert "worker 1 was killed by SIGKILL; all are started again" in said
    assert Path("killed.txt").read_bytes() == expected
    assert sum(command.decoded("killed.txt")) == 400


@pytest.mark.long
def test_a_worker_is_killed_too_often(command, expected):
    options = ["--workers", 2, "--batch-size", 1, "--restarts", 0]
    process = command.start(*options, output="often.txt")
    wait_until(lambda: len(workers("often.txt")) == 2, process)
    os.kill(workers("often.txt")["0"], signal.SIGKILL)
    said = process.communicate()[1]
    assert process.returncode == 137 and "worker 0 has stopped with exit status 137" in said
    assert not Path("often.txt").exists()
    process = command.start("--workers", 3, "--resume", output="often.txt")
    assert (process.communicate()[1], process.returncode) == ("", 0)
    assert Path("often.txt").read_bytes() == expected


@pytest.mark.long
@pytest.mark.parametrize("name", ["SIGTERM", "SIGUSR1"])
def test_a_signal_stops_all_workers(name, command, expected):
    output = f"{name}.txt"
    process = command.start("--workers", 2, "--batch-size", 1, output=output)
    wait_until(lambda: len(workers(output)) == 2, process)
    process.send_signal(getattr(signal, name))
    said = process.communicate()[1]
    assert process.returncode == 3, said
    error = said.splitlines()[-1]
    assert error.startswith("fairseq-el: error: stopped by SIGTERM: ") and error.endswith("--resume")
    assert main(shlex.split(error.partition("Go on with: ")[2].replace("--workers 2", "--workers 1"))[1:]) == 0
    assert Path(output).read_bytes() == expected
    assert sum(command.decoded(output)) == 400


@pytest.mark.long
def test_the_launcher_is_killed(command, expected):
    """Its workers stop by themselves, so that no line is decoded for nothing."""
    process = command.start("--workers", 2, "--batch-size", 1, output="orphans.txt")
    wait_until(lambda: len(workers("orphans.txt")) == 2, process)
    pids = workers("orphans.txt").values()
    process.kill()
    process.wait()
    deadline = time.monotonic() + 60
    while any(is_running(pid) for pid in pids):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert command.run("--resume", output="orphans.txt") == 0
    assert Path("orphans.txt").read_bytes() == expected
    assert sum(command.decoded("orphans.txt")) == 400


def is_running(pid: int) -> bool:
    state = subprocess.run(["ps", "-o", "state=", "-p", str(pid)], capture_output=True, text=True, check=False).stdout
    return state.strip() not in ("", "Z")


@pytest.mark.long
def test_torchrun_of_which_a_rank_is_killed(command, expected):
    """torchrun starts both again; then the output is merged."""
    agent = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    agent += ["--max_restarts", "2", "-m", "fairseq_el.cli", *command.line("--batch-size", 1, output="torchrun.txt")]
    environment = {**os.environ, "PYTHONWARNINGS": "ignore", "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [*agent, "--shard", "env"], cwd=command.directory, env=environment, stderr=subprocess.PIPE, text=True
    )
    wait_until(lambda: len(workers("torchrun.txt")) == 2, process)
    os.kill(workers("torchrun.txt")["1"], signal.SIGKILL)
    said = process.communicate()[1]
    assert process.returncode == 0, said
    assert sum(command.decoded("torchrun.txt")) == 400 and not Path("torchrun.txt").exists()
    assert main(["merge", "torchrun.txt.journal"]) == 0
    assert Path("torchrun.txt").read_bytes() == expected


@pytest.mark.long
def test_an_error_of_a_worker_ends_all_at_once(command):
    long = " ".join(["w1"] * 64)
    Path("long.txt").write_text(f"w1\n{long}\n")
    process = command.start("--workers", 2, "--input", "long.txt", output="error.txt")
    said = process.communicate()[1]
    assert process.returncode == 1
    assert "line 2 is longer than the 64 tokens that the model reads" in said
    assert "has stopped with exit status 1; its message is above" in said.splitlines()[-1]


@pytest.mark.long
@pytest.mark.parametrize("seed", range(3))
def test_killed_at_a_random_moment(seed, command, expected):
    """All processes, as when a machine loses power."""
    output = f"random{seed}.txt"
    rng = random.Random(seed)
    for _ in range(2):
        process = command.start("--workers", 2, "--batch-size", 1, "--resume", output=output)
        time.sleep(rng.uniform(1, 12))
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    assert command.run("--resume", output=output) == 0
    assert Path(output).read_bytes() == expected
    assert sum(command.decoded(output)) == 400
