"""``fairseq-el generate --engine ray``: actors on this machine."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
from pathlib import Path

import pytest
from command_lines import failed
from tiny_commands import Command, wait_until

HAS_RAY = importlib.util.find_spec("ray") is not None
needs_ray = pytest.mark.skipif(not HAS_RAY, reason="Ray is not installed: pip install 'fairseq_el[ray]'")


@pytest.fixture(scope="module")
def command(tmp_path_factory):
    return Command(tmp_path_factory.mktemp("work"), 1500)


@pytest.fixture(autouse=True)
def directory(command, monkeypatch):
    monkeypatch.chdir(command.directory)


@pytest.fixture(scope="module")
def expected(command):
    return command.undisturbed()


def actors() -> list[int]:
    """Process numbers of the actors that decode."""
    table = subprocess.run(["ps", "-eo", "pid,args"], capture_output=True, text=True, check=True).stdout
    rows = [line.split(None, 1) for line in table.splitlines()[1:]]
    return [int(pid) for pid, args in rows if "ray::MapWorker(MapBatches(RayWorker))" in args]


@pytest.mark.long
@needs_ray
def test_an_actor_and_the_driver_are_killed(command, expected):
    options = ["--engine", "ray", "--workers", 2, "--batch-size", 1]
    process = command.start(*options)
    wait_until(lambda: len(actors()) == 2, process)
    os.kill(actors()[0], signal.SIGKILL)
    wait_until(lambda: sum(command.decoded()) >= 512, process)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    before = sum(command.decoded())
    process = command.start(*options, "--resume")
    said = process.communicate()[1]
    assert process.returncode == 0, said
    assert Path("out.txt").read_bytes() == expected
    assert command.decoded() == [before, 1500 - before]


@pytest.mark.long
@needs_ray
def test_an_error_of_an_actor(command):
    Path("long.txt").write_text("w1\n" + " ".join(["w1"] * 64) + "\n")
    process = command.start("--engine", "ray", "--workers", 1, "--input", "long.txt", output="error.txt")
    said = process.communicate()[1]
    assert process.returncode == 1
    assert said.splitlines()[-1].startswith("fairseq-el: error: line 2 is longer than the 64 tokens that the model")
    assert "Traceback" not in said


@pytest.mark.skipif(HAS_RAY, reason="Ray is installed")
def test_without_ray(command, capsys):
    said = failed(capsys, *command.line("--engine", "ray", output="none.txt"))
    assert "--engine ray needs Ray" in said and "pip install 'fairseq_el[ray]'" in said
    assert not Path("none.txt.journal").exists()
