"""What a process leaves that was killed, and what another process that works on the same name does."""

from __future__ import annotations

import os
import signal
import socket
import time

import pytest
from processes import (
    BY,
    NEEDS_FORK,
    in_fork,
    killed_while_it_writes,
    names,
    wait_for,
    write_new,
)

from fairseq_el.errors import FairseqElError
from fairseq_el.files import MANIFEST, staging, staging_directory, write_whole, write_whole_directory


@NEEDS_FORK
def test_what_a_killed_process_has_left_is_removed(tmp_path):
    killed_while_it_writes(tmp_path / "a")
    (tmp_path / ".a.unfinished-mine").write_text("another's")
    write_whole(tmp_path / "a", lambda unfinished: unfinished.write_text("new"))
    assert names(tmp_path) == [".a.unfinished-mine", "a"]


@NEEDS_FORK
def test_what_a_killed_process_had_started_may_die_a_moment_later(tmp_path):
    """It holds the lock as long as it lives. A run that begins meanwhile waits, and isn't refused."""

    def write(unfinished):
        write_new(unfinished)
        if os.fork() == 0:
            while len(names(tmp_path)) == 1 and time.monotonic() < deadline:  # until the next run has begun
                time.sleep(0.01)
            os._exit(0)
        os.kill(os.getpid(), signal.SIGKILL)

    deadline = time.monotonic() + 60
    in_fork(write_whole_directory, tmp_path / "a", write, BY).join()
    (left,) = tmp_path.iterdir()
    (locked,) = staging.remove_abandoned(tmp_path / "a")
    assert locked.staging == left and locked.alive
    write_whole_directory(tmp_path / "a", write_new, BY)
    assert names(tmp_path) == ["a"]


def test_nothing_is_computed_for_a_directory_that_has_appeared(tmp_path):
    """As one does that another process has made while this one waited for it."""
    write_whole_directory(tmp_path / "a", write_new, BY)
    with pytest.raises(FairseqElError, match="a was not there before"):
        write_whole_directory(tmp_path / "a", lambda unfinished: pytest.fail("computed"), BY)
    assert names(tmp_path) == ["a"]


@NEEDS_FORK
def test_a_directory_that_was_moved_away_is_put_back(directory, monkeypatch):
    """Between the two renames, the old directory has another name."""
    rename = type(directory).rename

    def die_at_the_second(path, target):
        if target == directory:
            os.kill(os.getpid(), signal.SIGKILL)
        return rename(path, target)

    monkeypatch.setattr(type(directory), "rename", die_at_the_second)
    for _ in range(2):
        process = in_fork(write_whole_directory, directory, write_new, BY, {}, True)
        process.join()
        assert process.exitcode == -signal.SIGKILL
    monkeypatch.undo()
    assert not directory.exists()

    def fail(unfinished):
        assert names(directory) == ["file", MANIFEST]
        raise OSError("No space left on device")

    with pytest.raises(OSError, match="No space left"):
        write_whole_directory(directory, fail, BY, replace=True)
    assert names(directory) == ["file", MANIFEST] and names(directory.parent) == ["a"]


@NEEDS_FORK
def test_a_directory_is_made_by_one_process_at_a_time(tmp_path):
    """The other is told which one makes it. What that one has begun stays."""

    def write(unfinished):
        write_new(unfinished)
        (tmp_path / "begun").touch()
        wait_for(tmp_path / "go on")

    first = in_fork(write_whole_directory, tmp_path / "a", write, BY)
    wait_for(tmp_path / "begun")
    with pytest.raises(FairseqElError, match=rf"^process {first.pid} on .* is making .*/a already\. Wait"):
        write_whole_directory(tmp_path / "a", write_new, BY)
    (tmp_path / "go on").touch()
    first.join()
    assert first.exitcode == 0 and names(tmp_path) == ["a", "begun", "go on"] and (tmp_path / "a" / "new").exists()


def test_another_machines_process_may_be_alive(tmp_path, monkeypatch):
    """Its lock is not seen here, so its files stay; files can be written beside them, directories can't."""
    with monkeypatch.context() as patch:
        patch.setattr(staging, "_boot", lambda: "01234567")
        patch.setattr(socket, "gethostname", lambda: "far away")
        directory, lock = staging._new_staging(tmp_path / "a")
        os.close(lock)
    write_whole(tmp_path / "a", lambda unfinished: unfinished.write_text("new"))
    (tmp_path / "a").unlink()
    with pytest.raises(FairseqElError, match=rf"process {os.getpid()} on far_away may be .*, or remove {directory}"):
        write_whole_directory(tmp_path / "a", write_new, BY)
    assert names(tmp_path) == [directory.name]


@pytest.mark.parametrize("locks", ["no locks", "no fcntl"])
def test_file_systems_without_locks(locks, tmp_path, monkeypatch):
    """Nothing that another process has left is removed: whether it is alive is not known."""

    def fail(*unused):
        raise OSError("not supported")

    monkeypatch.setattr(staging.fcntl, "flock", fail)
    if locks == "no fcntl":
        monkeypatch.setattr(staging, "fcntl", None)
    left, _ = staging._new_staging(tmp_path / "a")
    write_whole(tmp_path / "a", lambda unfinished: unfinished.write_text("new"))
    with pytest.raises(FairseqElError, match="may be making"), staging_directory(tmp_path / "a", alone=True):
        pass
    assert names(tmp_path) == [left.name, "a"]
    write_whole_directory(tmp_path / "b", write_new, BY)
    assert names(tmp_path) == [left.name, "a", "b"]


@pytest.mark.parametrize("when", ["before it is opened", "before it is locked", "while it is being removed"])
def test_a_staging_directory_that_is_taken_for_a_dead_ones(when, tmp_path, monkeypatch):
    """Until it is locked, it looks like one. Then another is made."""
    lock, calls = staging._lock, []

    def lose_the_first(directory):
        calls.append(directory)
        if len(calls) > 1:
            return lock(directory)
        if when == "before it is opened":
            directory.rmdir()
        if when == "while it is being removed":
            directory.rmdir()
            raise BlockingIOError
        descriptor = lock(directory)
        directory.rmdir()
        return descriptor

    monkeypatch.setattr(staging, "_lock", lose_the_first)
    with staging_directory(tmp_path / "a") as directory:
        assert directory == calls[1] != calls[0] and names(tmp_path) == [directory.name]
    assert names(tmp_path) == []
