"""``fairseq-el generate`` with a tiny model: its command line, and runs of it in this process and in another one."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Callable

from tiny_data import sentences
from tiny_texts import LENGTHENS, PAIR, write_models

from fairseq_el.cli import main


class Command:
    """``fairseq-el generate`` in a directory with ``in.txt`` and checkpoints; it writes ``out.txt``."""

    def __init__(self, directory: Path, num_lines: int):
        self.directory, self.num_lines = directory, num_lines
        write_models(directory)
        self.write_input(num_lines)

    @classmethod
    def copied(cls, other: Command, directory: Path) -> Command:
        """The command in another directory, which is made, with the files of the first one."""
        shutil.copytree(other.directory, directory, dirs_exist_ok=True)
        copy = cls.__new__(cls)
        copy.directory, copy.num_lines = directory, other.num_lines
        return copy

    def run_there(self, *options: object, output: str = "out.txt") -> int:
        """Runs it in this process, which is in the command's directory meanwhile."""
        before = os.getcwd()
        os.chdir(self.directory)
        try:
            return self.run(*options, output=output)
        finally:
            os.chdir(before)

    def undisturbed(self) -> bytes:
        """What one process writes that nothing disturbs."""
        assert self.run_there("--no-journal", output="expected") == 0
        path = self.directory / "expected"
        text = path.read_bytes()
        path.unlink()
        return text

    def write_input(self, num_lines: int, seed: int = 3) -> None:
        lines = sentences(num_lines, seed=seed)
        lines[num_lines // 2] = ""
        (self.directory / "in.txt").write_text("".join(f"{line}\n" for line in lines), "utf-8")

    def line(self, *options: object, output: str = "out.txt") -> list[str]:
        model = [".", "--path", "a.pt", *PAIR, "--cpu", *LENGTHENS, "--beam", 3]
        batches = ["--batch-size", 4, "--window", 8, "--quiet"]
        return ["generate", *map(str, [*model, *batches, "--input", "in.txt", "--output", output, *options])]

    def run(self, *options: object, output: str = "out.txt") -> int:
        """Runs it in this process, whose working directory must be the command's."""
        return main(self.line(*options, output=output))

    def start(self, *options: object, output: str = "out.txt") -> subprocess.Popen[str]:
        """Starts it as a program, in a process group of its own."""
        environment = {**os.environ, "PYTHONWARNINGS": "ignore", "OMP_NUM_THREADS": "1"}
        program = [sys.executable, "-m", "fairseq_el.cli", *self.line(*options, output=output)]
        return subprocess.Popen(
            program, cwd=self.directory, env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True
        )

    def decoded(self, output: str = "out.txt") -> list[int]:
        """How many results each part of the journal has."""
        parts = sorted((self.directory / f"{output}.journal").glob("part-*.jsonl"))
        return [part.read_bytes().count(b"\n") for part in parts]

    def wait_for(self, least: int, process: subprocess.Popen[str], output: str = "out.txt") -> None:
        """Waits until every part has so many results, and there are as many parts as workers are known by then."""
        wait_until(lambda: min(self.decoded(output), default=0) >= least, process)


def wait_until(is_so: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 120
    while not is_so():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.02)
