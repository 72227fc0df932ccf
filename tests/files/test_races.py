"""Many processes that write to one name: what has it is whole at any time, and nothing else is left."""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import signal
import time

import pytest
from processes import (
    NEEDS_FORK,
    in_fork,
    is_whole,
    make_one,
    names,
    race,
)

from fairseq_el.errors import FairseqElError
from fairseq_el.files import staging, write_whole


@NEEDS_FORK
def test_many_processes_write_one_file(tmp_path):
    """Whenever it is read, it is whole; in the end nothing else is there."""
    path = tmp_path / "a"

    def act(letter):
        def write(unfinished):
            with unfinished.open("w") as file:
                for _ in range(5):
                    file.write(letter * 3000)
                    file.flush()

        write_whole(path, write, replace=True)
        text = path.read_text()
        assert len(text) == 15000 and len({*text}) == 1

    assert race(1, act).keys() == {"None"}
    assert names(tmp_path) == ["a"]


@NEEDS_FORK
def test_many_processes_make_the_same_new_files(tmp_path):
    """Each is made by one of them."""
    numbers = itertools.count()

    def act(letter):
        name = str(next(numbers))
        try:
            write_whole(tmp_path / name, lambda unfinished: unfinished.write_text(letter * 3000))
        except FairseqElError as error:
            return "meanwhile" in str(error)

    ended = race(1, act)
    assert ended.keys() == {"None", "True"} and ended["None"] == len(names(tmp_path))
    assert all(len({*path.read_text()}) == 1 for path in tmp_path.iterdir())


@NEEDS_FORK
def test_many_processes_make_one_directory(tmp_path):
    path = tmp_path / "a"
    ended = race(1, make_one(path))
    assert ended.keys() <= {"None", "already"} and ended["None"] > 0
    assert names(tmp_path) == ["a"] and is_whole(path)


@NEEDS_FORK
def test_directories_change_places_where_none_sees_the_others(tmp_path, monkeypatch):
    """As on two machines: every new one is whole, and in the end there is one."""
    monkeypatch.setattr(staging, "_refuse_others", lambda path, own: staging.remove_abandoned(path))
    monkeypatch.setattr(staging, "_boot", lambda: f"{os.getpid():08x}")
    path = tmp_path / "a"
    assert race(1, make_one(path)).keys() == {"None"}
    assert names(tmp_path) == ["a"] and is_whole(path)


@NEEDS_FORK
@pytest.mark.parametrize("kind", ["file", "directory"])
def test_processes_that_are_killed_at_any_time(kind, tmp_path):
    """After every kill the name has something whole, or has it again when the next process begins."""
    path = tmp_path / "a"

    def write_once(letter):
        if kind == "file":
            write_whole(path, lambda unfinished: unfinished.write_text(letter * 9000), replace=True)
        else:
            make_one(path)(letter)

    def write_forever(letter):
        while True:
            with contextlib.suppress(FairseqElError):
                write_once(letter)

    write_once("z")
    chance = random.Random(1)
    for _ in range(8):
        running = [in_fork(write_forever, letter) for letter in "ab"]
        time.sleep(chance.uniform(0.02, 0.06))
        for process in running:
            os.kill(process.pid, signal.SIGKILL)
            process.join()
        staging.remove_abandoned(path)
        assert names(tmp_path) == ["a"]
        assert is_whole(path) if kind == "directory" else len({*path.read_text()}) == 1
