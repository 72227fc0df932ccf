"""Small programs under ``benchmarks/`` say what they need; and the old spelling of two of them."""

from __future__ import annotations

import importlib
import sys

import pytest

from fairseq_el.cli import bench, main
from fairseq_el.measure import CAN_TRACK


def test_reports_and_checkpoints_are_new_files(tmp_path, script):
    (tmp_path / "report.json").write_text("precious")
    said = script("benchmarks/measured_generate.py", tmp_path / "report.json", "data")
    assert said.endswith(f"REPORT.json must be a new file; {tmp_path / 'report.json'} exists already")
    (tmp_path / "checkpoint_random.pt").write_text("precious")
    shape = ["--task", "translation", "--arch", "transformer_tiny", "--save-dir", tmp_path]
    said = script("benchmarks/random_checkpoint.py", tmp_path, *shape)
    assert said.endswith("checkpoint_random.pt exists already; choose another --save-dir, or remove it")
    assert {path.read_text() for path in tmp_path.iterdir()} == {"precious"}


def test_curves(tmp_path, script):
    pytest.importorskip("matplotlib")
    for name, updates in (("a", (1, 2)), ("b", (2, 3)), ("c", (4, 5))):
        lines = [f'| INFO | train_inner | {{"num_updates": "{n}", "loss": "{n / 2 + (name == "b")}"}}' for n in updates]
        (tmp_path / name).write_text("\n".join(lines))
    curves = [f"{name}={tmp_path / name}" for name in "abc"]
    done = script("benchmarks/plot_training.py", "--out", tmp_path / "x.png", *curves)
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
        assert message in script("benchmarks/plot_training.py", *arguments)


def test_messages_are_kept_out_of_the_output(tmp_path):
    """Of a program whose output is read: in one file, they could come in the middle of a hypothesis."""
    run = importlib.import_module("compare").run_logged
    program = "import sys; print('D-0', end=' ', flush=True); print('said', file=sys.stderr); print('x'); sys.exit({})"
    messages = run([sys.executable, "-c", program.format(0)], tmp_path / "a.log")
    assert (tmp_path / "a.log").read_text() == "D-0 x\n" and messages.read_text() == "said\n"
    with pytest.raises(SystemExit, match="ended with status 3:\nD-0 x\nsaid"):
        run([sys.executable, "-c", program.format(3)], tmp_path / "b.log")


OLD = {
    "topk": ["--lengths", "8", "--runs", "0"],
    "slim": ["--layers", "1", "--width", "16", "--lengths", "8", "--runs", "0"],
}


@pytest.mark.skipif(not CAN_TRACK, reason="torch before 2.1 counts no bytes, and must time")
@pytest.mark.parametrize(("name", "options"), OLD.items())
def test_the_old_spelling(name, options, capsys):
    assert main(["bench", name, *options]) == 0
    printed = capsys.readouterr()
    program = f"python benchmarks/{bench._MOVED[name]}.py"
    assert printed.err == f"fairseq-el: note: bench {name} is {program} now\n"
    assert f"command: {program} {' '.join(options)}" in printed.out


def test_the_old_spelling_where_there_is_no_checkout(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(bench, "_BENCHMARKS", tmp_path / "benchmarks")
    assert main(["bench", "topk", "--lengths", "8"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("fairseq-el: error: fairseq-el bench topk is a program of its own now")
    assert said.endswith("there: python benchmarks/topk_layers.py --lengths 8\n") and said.count("\n") == 1


@pytest.mark.parametrize("name", ["topk", "./topk"])
def test_a_data_directory_of_the_name(name, capsys):
    assert main(["bench", name, "--path", "nowhere.pt"]) == 2
    assert f"there is no directory {name}" in capsys.readouterr().err
