"""Steps of a recipe replace what steps have made, and nothing else; of two processes, one makes it."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import sys
import time
from pathlib import Path

import pytest
from commands import EXAMPLE
from recipe_files import HERE, write_recipe

from fairseq_el.cli import main
from fairseq_el.files import MANIFEST
from fairseq_el.recipes import stamped_directory

STEPS = ("preprocess", "generate", "score")
DIRECTORIES = ("data", "generated", "scores")
RECIPE = {
    "languages": ["de", "en"],
    "files": {
        **{name: {"copy": f"example/{name}"} for name in ("model.pt", "dict.de.txt", "dict.en.txt")},
        **{f"text.{name}": HERE for name in ("de", "en")},
    },
    "text": ["text.de", "text.en"],
    "dictionary": ["dict.de.txt", "dict.en.txt"],
    "max_source": 100,
    "batch_size": 2,
}


def pretend(module, arguments, output, log, name=None):
    """What programs write that take long."""
    log.write_text("")
    output.write_text("")
    if module == "fairseq_cli.preprocess":
        (output.parent / "bin").mkdir()
        (output.parent / "bin" / "test.de-en.de.bin").write_bytes(b"binary")
    elif arguments[0] == "generate":
        waits = Path(str(output.parent.parent.parent), "wait")
        while waits.exists():
            time.sleep(0.01)
        output.write_text("".join(f"H-{n}\t-0.5\tein Satz\nP-{n}\t-0.5\n" for n in range(2)))
    else:
        output.write_text(json.dumps({"sentences": 2, "scores": {}}))


@pytest.fixture
def work(tmp_path, monkeypatch):
    for step in STEPS:
        monkeypatch.setattr(sys.modules[f"fairseq_el.recipes.{step}_step"], "run_program", pretend)
    monkeypatch.chdir(tmp_path)
    os.symlink(EXAMPLE, "example")
    directory = tmp_path / "work"
    directory.mkdir()
    for language in ("de", "en"):
        (directory / f"text.{language}").write_text("ein Satz\nnoch ein Satz\n")
    write_config({})
    return directory


def write_config(changes):
    write_recipe(Path("recipe.yaml"), **{**RECIPE, **changes})


@pytest.fixture
def recipe(work, capfd):
    def run(step, fails=False):
        status = main(["recipe", step, "recipe.yaml", "--work", "work"])
        printed = capfd.readouterr()
        assert status == int(fails), printed
        return printed.err if fails else printed.out

    return run


@pytest.fixture
def made(work, recipe):
    for step in ("download", *STEPS):
        recipe(step)
    assert {*os.listdir(work)} == {*RECIPE["files"], *DIRECTORIES}
    return work


def content(directory):
    return {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def test_a_users_directories_stay(work, recipe):
    """Whichever step is run: all are named, and nothing is done."""
    for name in DIRECTORIES:
        (work / name / "corpus").mkdir(parents=True)
        (work / name / "corpus" / "precious").write_text("precious")
    (work / "generated" / MANIFEST).write_text('{"made_by": "fairseq-el convert from-hf", "files": {}}')
    before = content(work)
    for step in ("download", *STEPS):
        said = recipe(step, fails=True)
        assert f"no record ({MANIFEST}) that it made work/data, work/generated, work/scores. Choose another" in said
        assert content(work) == before and said.count("\n") == 1
    shutil.rmtree(work / "scores")
    (work / "scores").write_text("precious")
    assert "that it made work/data, work/generated, work/scores." in recipe("preprocess", fails=True)
    assert (work / "scores").read_text() == "precious"


def test_empty_directories_are_the_steps(work, recipe):
    for name in DIRECTORIES:
        (work / name).mkdir()
    for step in ("download", *STEPS):
        recipe(step)
    assert all((work / name / MANIFEST).is_file() for name in DIRECTORIES)


def test_what_other_settings_have_made_is_replaced(made, recipe):
    write_config({"max_source": 50})
    before = content(made)
    for step in STEPS:
        recipe(step)
    assert {*os.listdir(made)} == {*RECIPE["files"], *DIRECTORIES}
    assert content(made).keys() == before.keys() and content(made) != before


@pytest.mark.parametrize("name", ["data/bin/mine", "generated/output.txt", "scores/notes", "scores/link"])
def test_a_users_files_stay(name, made, recipe):
    """Put into a directory that a step has made, or changed there. Later steps' directories are looked at too."""
    write_config({"max_source": 50})
    if name.endswith("link"):
        (made / name).symlink_to("../text.de")
    else:
        (made / name).write_text("precious")
    before = content(made)
    directory, _, inside = name.partition("/")
    said = recipe("preprocess", fails=True)
    assert f"work/{directory} has files that fairseq-el recipe" in said and f"changed since: {inside}. Nothing" in said
    assert content(made) == before and (made / name).exists()


def test_all_that_stay_are_named_at_once(made, recipe):
    for name in DIRECTORIES:
        (made / name / "mine").write_text("precious")
    assert "nothing to do" in recipe("preprocess")  # and so nothing is to be replaced
    write_config({"max_source": 50})
    said = recipe("preprocess", fails=True)
    assert all(f"work/{name} has files" in said for name in DIRECTORIES)
    write_config({"decoding": {"beam": 2, "max_len_b": 5}})
    said = recipe("generate", fails=True)
    assert "work/data has" not in said and all(f"work/{name} has files" in said for name in DIRECTORIES[1:])


def test_a_link_to_a_directory_stays_a_link(made, recipe):
    """What it leads to is made again, if a step has made it."""
    os.rename(made / "data", "elsewhere")
    (made / "data").symlink_to("../elsewhere")
    write_config({"max_source": 50})
    recipe("preprocess")
    assert (made / "data").is_symlink() and "50" in Path("elsewhere", MANIFEST).read_text()
    Path("mine").mkdir()
    Path("mine/precious").write_text("precious")
    (made / "data").unlink()
    (made / "data").symlink_to("../mine")
    assert "that it made work/data." in recipe("preprocess", fails=True)
    assert os.listdir("mine") == ["precious"]


def test_files_do_not_lie_in_what_steps_make(work, recipe):
    assert {*stamped_directory.DIRECTORIES.values()} == {*DIRECTORIES}
    for name in ("data/text.de", "scores", "./generated/x"):
        write_config({"files": {**RECIPE["files"], name: {"where": "Here."}}})
        said = recipe("download", fails=True)
        assert f"files.{name} must not be in data, generated, scores: the steps make these directories" in said


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_a_download_replaces_nothing(make, work, recipe):
    make(work / "model.pt")
    (work / "dict.de.txt").write_text("my own")
    assert "model.pt: it must be a file; work/model.pt is a " in recipe("download", fails=True)
    assert not (work / "model.pt").is_file() and (work / "dict.de.txt").read_text() == "my own"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="runs steps in forks")
def test_two_processes_generate(made, recipe):
    """The second is told which one does it, and takes nothing away from it."""
    write_config({"decoding": {"beam": 2, "max_len_b": 5}})
    (made / "wait").touch()
    fork = multiprocessing.get_context("fork")
    arguments = ["recipe", "generate", "recipe.yaml", "--work", "work"]
    first = fork.Process(target=lambda: os._exit(main(arguments)), daemon=True)
    first.start()
    deadline = time.monotonic() + 60
    while not list(made.glob(".generated.unfinished-*/generated/output.txt")):
        assert first.is_alive() and time.monotonic() < deadline
        time.sleep(0.01)
    before = content(made)
    for _ in range(2):
        said = recipe("generate", fails=True)
        assert (
            f"process {first.pid} on " in said and "is making work/generated already. Wait until it has ended" in said
        )
    assert content(made) == before
    (made / "wait").unlink()
    first.join()
    assert first.exitcode == 0 and "nothing to do" in recipe("generate")
    assert {*os.listdir(made)} == {*RECIPE["files"], *DIRECTORIES}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="runs steps in forks")
@pytest.mark.parametrize("step", ["download", "preprocess", "generate"])
def test_processes_that_begin_at_once(step, made, recipe, capfd):
    """Each ends well, or says that another makes the same; in the end it is there, and nothing else."""
    write_config({"max_source": 50})
    if step == "generate":
        recipe("preprocess")
    if step == "download":
        (made / "model.pt").unlink()
    fork = multiprocessing.get_context("fork")
    arguments = ["recipe", step, "recipe.yaml", "--work", "work"]
    running = [fork.Process(target=lambda: os._exit(main(arguments))) for _ in range(4)]
    for process in running:
        process.start()
    for process in running:
        process.join()
    said = capfd.readouterr().err
    codes = [process.exitcode for process in running]
    assert 0 in codes and {*codes} <= {0, 1}, said
    assert said.count("is making") + said.count("has made it meanwhile") == codes.count(1), said
    assert {*os.listdir(made)} == {*RECIPE["files"], *DIRECTORIES}
    assert "is there" in recipe(step) if step == "download" else "nothing to do" in recipe(step)
