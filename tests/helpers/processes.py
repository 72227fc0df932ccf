"""Processes that write files and directories at once, and die: for tests of whole files."""

from __future__ import annotations

import itertools
import json
import multiprocessing
import os
import random
import signal
import time
from pathlib import Path

import pytest

from fairseq_el.errors import FairseqElError
from fairseq_el.files import MANIFEST, write_whole, write_whole_directory

BY = "fairseq-el recipe generate"
NEEDS_FORK = pytest.mark.skipif(not hasattr(os, "fork"), reason="kills forks")


def names(directory):
    return sorted(path.name for path in directory.iterdir())


def write_new(unfinished):
    (unfinished / "new").write_text("new")


def write_big(unfinished, letter="n"):
    (unfinished / "sub").mkdir()
    for name in ("a", "sub/b"):
        (unfinished / name).write_text(letter * 9000)


def in_fork(call, *arguments):
    process = multiprocessing.get_context("fork").Process(target=call, args=arguments, daemon=True)
    process.start()
    return process


def killed_while_it_writes(path: Path) -> Path:
    """The staging directory that a process has left there."""

    def write(unfinished):
        unfinished.mkdir(exist_ok=True)
        os.kill(os.getpid(), signal.SIGKILL)

    before = set(path.parent.iterdir())
    in_fork(write_whole, path, write).join()
    (place,) = {*path.parent.iterdir()} - before
    return place


def wait_for(path: Path):
    deadline = time.monotonic() + 60
    while not path.exists():
        assert time.monotonic() < deadline, f"{path} did not come"
        time.sleep(0.01)


def race(seconds: float, act, processes: int = 4):
    """Has several processes act again and again at once; what each act gave is counted."""
    results = multiprocessing.get_context("fork").SimpleQueue()

    def again(letter):
        random.seed(letter)
        ended: dict[str, int] = {}
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            try:
                said = str(act(letter))
            except FairseqElError as error:
                said = "already" if "is making" in str(error) else str(error)
            ended[said] = ended.get(said, 0) + 1
        results.put(ended)

    running = [in_fork(again, letter) for letter in "abcdefgh"[:processes]]
    for process in running:
        process.join()
    assert {process.exitcode for process in running} == {0}
    found = [results.get() for _ in running]
    return {said: sum(ended.get(said, 0) for ended in found) for said in {*itertools.chain(*found)}}


def make_one(path):
    return lambda letter: write_whole_directory(path, lambda to: write_big(to, letter), BY, {}, True)


def is_whole(path):
    texts = {(path / name).read_text() for name in ("a", "sub/b")}
    return names(path) == ["a", MANIFEST, "sub"] and len(texts) == 1 and json.loads((path / MANIFEST).read_text())
