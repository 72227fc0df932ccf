"""What options may name for output: never what is read, and never what is not a file, --force or not."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import socket
from pathlib import Path

import pytest
import torch
from command_lines import call, convert, failed_convert, program_of
from commands import EXAMPLE

from fairseq_el.cli import main
from fairseq_el.files import staging

MODEL = EXAMPLE / "model.pt"
PLAN = ["plan", "--beam", "4", "--src-len", "9", "--tgt-len", "9", "--dtype", "fp32"]
COMMANDS = {  # with an option for output at the end, and what they read
    "to-el": ["convert", "to-el", "model.pt", "--force", "--out"],
    "to-stock": ["convert", "to-stock", "model.pt", "--force", "--out"],
    "strip": ["convert", "strip", "model.pt", "--force", "--out"],
    "average": ["convert", "strip", "other.pt", "model.pt", "--average", "--force", "--out"],
    "plan": [*PLAN, "--path", "model.pt", "--force", "--plot"],
    "bench": ["bench", "DATA", "--path", "model.pt", "--force", "--out"],
    "slim_training": ["slim_training.py", "--force", "--plot"],
    "topk_layers": ["topk_layers.py", "--force", "--plot"],
    "score": ["score", "text", "--force", "--extract", "hypo"],
    "references": ["score", "text", "--ref", "refs", "--force", "--extract", "hypo"],
}
MEASURING = (
    "fairseq_el.cli.bench.compare_programs",
    "slim_training.measure_slim_training",
    "topk_layers.measure_topk_layers",
)
READ = {"score": "text", "references": "refs"}  # others read model.pt
SUFFIX = {"plan": ".png", "slim_training": ".png", "topk_layers": ".png"}


def make_socket(path):
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(os.path.relpath(path))


KINDS = {
    "a FIFO": os.mkfifo,
    "a socket": make_socket,
    "a directory": os.mkdir,
    "a device": lambda path: path.symlink_to("/dev/null"),
    "a link that leads to itself": lambda path: path.symlink_to(path.name),
}


@pytest.fixture
def work(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copy(MODEL, "model.pt")
    shutil.copy(MODEL, "other.pt")
    Path("text").write_text("a text\n")
    Path("refs").write_text("a text\n")
    Path("DATA").mkdir()
    for name in MEASURING:
        monkeypatch.setattr(name, None)  # nothing is to be measured
    return tmp_path


def content(directory):
    """What is there, with the modes of what it is and the bytes of files."""
    found = {}
    for path in directory.rglob("*"):
        state = path.lstat()
        found[path] = (state.st_mode, state.st_ino, path.read_bytes() if path.is_file() else None)
    return found


def refused(capsys, *arguments):
    arguments = [*map(str, arguments)]
    assert call(arguments) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"{program_of(arguments)}: error: ") and said.count("\n") == 1
    return said


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("command", COMMANDS)
def test_what_is_not_a_file_stays(command, kind, work, capsys):
    if command in SUFFIX:
        pytest.importorskip("matplotlib")
    path = work / f"out{SUFFIX.get(command, '')}"
    named = path
    if command == "bench":
        path.mkdir()
        path = path / "bench.md"
    KINDS[kind](path)
    before = content(work)
    said = refused(capsys, *COMMANDS[command], named)
    assert f"must name a file; {path} is {kind}" in said
    assert content(work) == before


@pytest.mark.parametrize("path", ["/dev/stdout", "/dev/fd/1", "/dev/null", "/proc/self/fd/1", "/dev/full"])
@pytest.mark.parametrize("command", ["strip", "score"])
def test_devices(command, path, work, capsys):
    assert f"must name a file; {path} is a" in refused(capsys, *COMMANDS[command], path)


@pytest.mark.parametrize("how", ["itself", "another way", "link", "hard link"])
@pytest.mark.parametrize("command", ["to-el", "to-stock", "strip", "average", "score", "references"])
def test_what_is_read_stays(command, how, work, capsys):
    given = Path(READ.get(command, "model.pt"))
    path = {"itself": given, "another way": Path("DATA", "..", given)}.get(how, Path("out"))
    if how == "link":
        path.symlink_to(given)
    if how == "hard link":
        os.link(given, path)
    before = content(work)
    assert f"must not be what is read: {path} is {given}; choose another name" in refused(
        capsys, *COMMANDS[command], path
    )
    assert content(work) == before


def test_a_picture_does_not_replace_what_is_read(work, capsys):
    pytest.importorskip("matplotlib")
    os.rename("model.pt", "model.png")
    before = content(work)
    options = [*PLAN, "--path", "model.png", "--force", "--plot", "model.png"]
    assert "--plot must not be what is read" in refused(capsys, *options)
    assert content(work) == before


def test_reports_do_not_replace_what_is_read(work, capsys):
    pytest.importorskip("matplotlib")
    os.rename("model.pt", "DATA/bench.md")
    arguments = ["bench", "DATA", "--path", "DATA/bench.md", "--out", "DATA", "--force"]
    assert "--out must not be what is read: DATA/bench.md" in refused(capsys, *arguments)


@pytest.mark.parametrize("command", ["slim", "topk"])
def test_two_options_for_one_file(command, work, capsys):
    if command == "topk":
        pytest.importorskip("matplotlib")
        options = ["--out", "out", "--plot", "DATA/../out/topk.png"]
        assert "--plot must not be one of the files of --out" in refused(capsys, "topk_layers.py", *options)
    else:  # its --out has no picture
        os.symlink("out/slim.json", "x.png")
        options = ["--out", "out", "--plot", "x.png"]
        pytest.importorskip("matplotlib")
        assert "--plot must not be one of the files of --out" in refused(capsys, "slim_training.py", *options)


@pytest.mark.parametrize("path", ["nowhere/out", "text/out", "dangling"])
@pytest.mark.parametrize("command", ["to-el", "strip", "score"])
def test_a_directory_that_does_not_exist(command, path, work, capsys):
    os.symlink("nowhere/out", "dangling")
    said = refused(capsys, *COMMANDS[command], path)
    assert f"{path} must be in a directory that exists; there is no directory {work}/" in said


def test_a_read_only_file_stays(work, capsys):
    Path("out").write_text("precious")
    os.chmod("out", 0o444)
    assert "--out out is read-only, and --force replaces no such file" in refused(capsys, *COMMANDS["strip"], "out")
    assert Path("out").read_text() == "precious"


def test_a_link_is_followed(work, capsys):
    """It stays, and so do other names of the file that it leads to."""
    Path("to").write_text("old")
    os.link("to", "same")
    os.symlink("to", "out")
    assert "exists already" in refused(capsys, "score", "text", "--extract", "hypo", "out")
    assert main([*COMMANDS["score"], "out"]) == 0
    assert os.readlink("out") == "to" and Path("to").read_text() == "a text\n" and Path("same").read_text() == "old"


# Directories that convert writes.


def test_what_is_converted_stays(saved, tmp_path, monkeypatch, capsys):
    """Wherever it lies in what would be replaced, and even if all of that is convert's own."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(saved / "fairseq", "out")
    shutil.copytree(saved / "hf", "out/src")
    os.symlink("out/src", "link")
    os.makedirs("elsewhere")
    os.symlink("../out/model.pt", "elsewhere/model.pt")
    before = content(tmp_path)
    for arguments in (
        ["from-hf", "out/src"],
        ["from-hf", "link"],
        ["from-hf", "out"],
        ["to-hf", "out"],
        ["to-hf", "out/model.pt"],
        ["to-hf", "elsewhere"],
        ["to-hf", "elsewhere/model.pt", "--data", "out"],
        ["to-hf", MODEL, "--data", "out/src"],
    ):
        said = failed_convert(capsys, *arguments, "--out", "out", "--force")
        assert "--out must not be what is converted, nor hold it" in said or "has no config.json" in said
        assert content(tmp_path) == before


def test_only_what_convert_has_made_is_replaced(saved, tmp_path, monkeypatch, capsys):
    """A model that looks like one that it has made is not enough, nor one that another kind of convert has made."""
    monkeypatch.chdir(tmp_path)
    for name in ("fairseq", "hf"):
        shutil.copytree(saved / name, name)
    shutil.copytree("hf", "downloaded")
    shutil.copytree("fairseq", "with notes")
    Path("with notes/hf/notes").write_text("precious")
    before = content(tmp_path)
    for kind, source, out, why in (
        ("to-hf", "fairseq", "downloaded", "was not made by fairseq-el convert to-hf"),
        ("to-hf", "fairseq", "with notes", "must not|was not made"),
        ("from-hf", "hf", "with notes", "did not write, or that were changed since: hf/notes"),
    ):
        said = failed_convert(capsys, kind, source, "--out", out, "--force")
        assert any(part in said for part in why.split("|"))
        assert content(tmp_path) == before
    shutil.rmtree("with notes/hf")  # all that is left is its own
    convert(capsys, "from-hf", "hf", "--out", "with notes", "--force")
    record = json.loads(Path("with notes/made_by_fairseq_el.json").read_text())
    assert record["made_by"] == "fairseq-el convert from-hf" and "hf/config.json" in record["files"]


def test_an_old_directory_that_a_killed_process_had_moved_away_is_not_replaced_without_force(
    saved, tmp_path, monkeypatch, capsys
):
    """It is put back before anything is looked at."""
    monkeypatch.chdir(tmp_path)
    place, lock = staging._new_staging(tmp_path / "out")
    shutil.copytree(saved / "fairseq", place / f"{staging.REPLACED}000")
    os.close(lock)  # as with the end of its process
    before = content(saved / "fairseq").values()
    assert "--out out exists already" in failed_convert(capsys, "from-hf", saved / "hf", "--out", "out")
    assert os.listdir() == ["out"]
    assert [bytes_ for _, _, bytes_ in before] == [bytes_ for _, _, bytes_ in content(tmp_path / "out").values()]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="runs the command in forks")
@pytest.mark.parametrize("force", [True, False])
def test_several_converts_to_one_file(force, work, capfd):
    """All that end well have written all of it; the others say who was faster. Nothing else is there."""
    before = set(os.listdir())
    arguments = [COMMANDS["to-el"][:3] if number % 2 else [*COMMANDS["strip"][:3], "--fp16"] for number in range(4)]
    rest = [*(["--force"] if force else []), "--out", "out.pt"]
    fork = multiprocessing.get_context("fork")
    running = [fork.Process(target=lambda given=given: os._exit(main([*given, *rest]))) for given in arguments]
    for process in running:
        process.start()
    for process in running:
        process.join()
    codes = sorted(process.exitcode for process in running)
    said = capfd.readouterr().err
    assert codes[0] == 0 and (codes == [0] * 4 if force else codes.count(0) == 1), said
    assert said.count("\n") == said.count("has made it meanwhile") + said.count("exists already") == 4 - codes.count(0)
    torch.load("out.pt")
    assert {*os.listdir()} == {*before, "out.pt"}
