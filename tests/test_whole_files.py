"""Files and directories are whole or not there, whoever else writes to the same name, and whenever a process dies."""

from __future__ import annotations

import contextlib
import itertools
import json
import multiprocessing
import os
import random
import signal
import socket
import time
from pathlib import Path

import pytest

from fairseq_el import workplace as workplaces
from fairseq_el.errors import FairseqElError
from fairseq_el.records import RECORD
from fairseq_el.whole_files import write_whole, write_whole_directory
from fairseq_el.workplace import workplace

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


@pytest.fixture
def directory(tmp_path):
    path = tmp_path / "a"
    write_whole_directory(path, lambda unfinished: (unfinished / "file").write_text("old"), BY)
    return path


def test_a_file_takes_the_old_ones_place_when_it_is_whole(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    seen = []

    def write(unfinished):
        unfinished.write_text("new")
        seen.append((unfinished.name, path.read_text()))

    write_whole(path, write, replace=True)
    assert seen == [("a.txt", "old")]
    assert path.read_text() == "new" and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_a_write_that_fails_leaves_the_old_file_alone(error, tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")

    def write(unfinished):
        unfinished.write_text("ne")
        raise error

    with pytest.raises(error):
        write_whole(path, write, replace=True)
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("links", [True, False])
def test_what_came_to_be_there_meanwhile_stays(links, tmp_path, monkeypatch):
    """Also on a file system without hard links."""
    if not links:
        monkeypatch.setattr(os, "link", lambda *unused: os.stat(tmp_path / "nowhere"))
    path = tmp_path / "a.txt"

    def write(unfinished):
        unfinished.write_text("new")
        path.write_text("precious")

    with pytest.raises(FairseqElError, match=r"a\.txt was not there before, .* meanwhile\. Nothing was replaced"):
        write_whole(path, write)
    assert path.read_text() == "precious" and list(tmp_path.iterdir()) == [path]
    write_whole(tmp_path / "b", lambda unfinished: unfinished.write_text("new"))
    assert (tmp_path / "b").read_text() == "new" and names(tmp_path) == ["a.txt", "b"]


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_only_files_are_replaced_by_files(make, tmp_path):
    def write(unfinished):
        unfinished.write_text("new")
        make(tmp_path / "a")

    with pytest.raises(FairseqElError, match=r"a must be a file; it is a (FIFO|directory)\. Nothing was replaced"):
        write_whole(tmp_path / "a", write, replace=True)
    assert not (tmp_path / "a").is_file() and names(tmp_path) == ["a"]


def test_links_stay(tmp_path, directory):
    """What they lead to is replaced, or comes to be there; another name of the same file keeps what it has."""
    (tmp_path / "file").write_text("old")
    os.link(tmp_path / "file", tmp_path / "hard")
    (tmp_path / "link").symlink_to("file")
    (tmp_path / "dangling").symlink_to("nothing yet")
    for name in ("link", "dangling"):
        write_whole(tmp_path / name, lambda unfinished: unfinished.write_text("new"), replace=True)
    (tmp_path / "to").symlink_to(directory)
    write_whole_directory(tmp_path / "to", write_new, BY, replace=True)
    assert all((tmp_path / name).is_symlink() for name in ("link", "dangling", "to"))
    texts = {name: (tmp_path / name).read_text() for name in ("file", "hard", "nothing yet", "a/new")}
    assert texts == {"file": "new", "hard": "old", "nothing yet": "new", "a/new": "new"}
    assert names(tmp_path) == ["a", "dangling", "file", "hard", "link", "nothing yet", "to"]


def test_a_directory_takes_the_old_ones_place_when_it_is_whole(directory):
    def write(unfinished):
        write_new(unfinished)
        assert names(directory) == ["file", RECORD]

    write_whole_directory(directory, write, BY, replace=True)
    assert names(directory) == [RECORD, "new"] and names(directory.parent) == ["a"]


def test_a_directory_named_by_a_dot(directory, monkeypatch):
    monkeypatch.chdir(directory)
    write_whole_directory(Path("."), write_new, BY, replace=True)
    assert names(directory) == [RECORD, "new"]


@pytest.mark.parametrize("fails", ["write", "rename"])
def test_a_directory_that_is_not_finished_leaves_the_old_one(fails, directory, monkeypatch):
    def write(unfinished):
        write_new(unfinished)
        if fails == "write":
            raise OSError("No space left on device")

    rename = type(directory).rename

    def fail_at_the_second(path, target):
        if target == directory and path.name == "a":
            raise OSError("No space left on device")
        return rename(path, target)

    monkeypatch.setattr(type(directory), "rename", fail_at_the_second)
    with pytest.raises(OSError, match="No space left"):
        write_whole_directory(directory, write, BY, replace=True)
    assert names(directory) == ["file", RECORD] and names(directory.parent) == ["a"]


def add(path):
    (path / "mine").write_text("precious")


def change(path):
    (path / "file").write_text("mine")


def link(path):
    (path / "file").rename(path.parent / "file")
    (path / "file").symlink_to("../file")


def lose_the_record(path):
    (path / RECORD).unlink()


def be_made_by_another(path):
    text = (path / RECORD).read_text()
    (path / RECORD).write_text(text.replace(BY, "fairseq-el convert from-hf"))


def break_the_record(path):
    (path / RECORD).write_text("[" * 100_000)


def protect(path):
    path.chmod(0o555)


def become_a_file(path):
    for file in path.iterdir():
        file.unlink()
    path.rmdir()
    path.write_text("precious")


CHANGES = {
    add: "has files that fairseq-el recipe generate did not write, or that were changed since: mine",
    change: "has files that .*: file",
    link: "has files that .*: file",
    lose_the_record: f"was not made by fairseq-el recipe generate, .*: it has no {RECORD}",
    be_made_by_another: "was not made by fairseq-el recipe generate",
    break_the_record: "was not made by fairseq-el recipe generate",
    protect: "is read-only",
    become_a_file: "was not made by fairseq-el recipe generate",
}


@pytest.mark.parametrize(("alter", "why"), CHANGES.items(), ids=lambda value: getattr(value, "__name__", None))
def test_a_directory_in_which_something_is_the_users_stays(alter, why, directory):
    """Looked at when the new one is whole: it may have been changed since it was looked at first."""

    def write(unfinished):
        write_new(unfinished)
        alter(directory)

    with pytest.raises(FairseqElError, match=f"^{directory} {why}.*Nothing was replaced"):
        write_whole_directory(directory, write, BY, replace=True)
    assert ".a" not in [name[:2] for name in names(directory.parent)]
    assert directory.is_file() or set(names(directory)) & {"file", "mine"}
    directory.chmod(0o755)


def test_a_directory_that_came_to_be_there_meanwhile_stays(tmp_path):
    def write(unfinished):
        write_new(unfinished)
        (tmp_path / "a").mkdir()
        (tmp_path / "a" / "mine").write_text("precious")

    with pytest.raises(FairseqElError, match=r"a was not there before, .* meanwhile\. Nothing was replaced"):
        write_whole_directory(tmp_path / "a", write, BY)
    assert names(tmp_path) == ["a"] and names(tmp_path / "a") == ["mine"]


@pytest.mark.parametrize("name", ["a[1]", "a*", "n" * 255, "\u00e9" * 127])
def test_names(name, tmp_path):
    """With what is a pattern elsewhere, and as long as a name can be."""
    killed = killed_while_it_writes(tmp_path / name)
    assert names(tmp_path) == [killed.name]
    write_whole_directory(tmp_path / name, write_new, BY)
    assert names(tmp_path) == [name]
    write_whole(tmp_path / name / name, lambda unfinished: unfinished.write_text("new"))
    assert names(tmp_path / name) == sorted([RECORD, name, "new"])


def in_fork(call, *arguments):
    process = multiprocessing.get_context("fork").Process(target=call, args=arguments, daemon=True)
    process.start()
    return process


def killed_while_it_writes(path: Path) -> Path:
    """The workplace that a process has left there."""

    def write(unfinished):
        unfinished.mkdir(exist_ok=True)
        os.kill(os.getpid(), signal.SIGKILL)

    before = set(path.parent.iterdir())
    in_fork(write_whole, path, write).join()
    (place,) = {*path.parent.iterdir()} - before
    return place


@NEEDS_FORK
def test_what_a_killed_process_has_left_is_removed(tmp_path):
    killed_while_it_writes(tmp_path / "a")
    (tmp_path / ".a.unfinished-mine").write_text("another's")
    write_whole(tmp_path / "a", lambda unfinished: unfinished.write_text("new"))
    assert names(tmp_path) == [".a.unfinished-mine", "a"]


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
        assert names(directory) == ["file", RECORD]
        raise OSError("No space left on device")

    with pytest.raises(OSError, match="No space left"):
        write_whole_directory(directory, fail, BY, replace=True)
    assert names(directory) == ["file", RECORD] and names(directory.parent) == ["a"]


def wait_for(path: Path):
    deadline = time.monotonic() + 60
    while not path.exists():
        assert time.monotonic() < deadline, f"{path} did not come"
        time.sleep(0.01)


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
        patch.setattr(workplaces, "_boot", lambda: "01234567")
        patch.setattr(socket, "gethostname", lambda: "far away")
        place, lock = workplaces._new_place(tmp_path / "a")
        os.close(lock)
    write_whole(tmp_path / "a", lambda unfinished: unfinished.write_text("new"))
    (tmp_path / "a").unlink()
    with pytest.raises(FairseqElError, match=rf"process {os.getpid()} on far_away may be making .*, or remove {place}"):
        write_whole_directory(tmp_path / "a", write_new, BY)
    assert names(tmp_path) == [place.name]


@pytest.mark.parametrize("locks", ["no locks", "no fcntl"])
def test_file_systems_without_locks(locks, tmp_path, monkeypatch):
    """Nothing that another process has left is removed: whether it is alive is not known."""

    def fail(*unused):
        raise OSError("not supported")

    monkeypatch.setattr(workplaces.fcntl, "flock", fail)
    if locks == "no fcntl":
        monkeypatch.setattr(workplaces, "fcntl", None)
    left, _ = workplaces._new_place(tmp_path / "a")
    write_whole(tmp_path / "a", lambda unfinished: unfinished.write_text("new"))
    with pytest.raises(FairseqElError, match="may be making"), workplace(tmp_path / "a", alone=True):
        pass
    assert names(tmp_path) == [left.name, "a"]
    write_whole_directory(tmp_path / "b", write_new, BY)
    assert names(tmp_path) == [left.name, "a", "b"]


@pytest.mark.parametrize("when", ["before it is opened", "before it is locked", "while it is being removed"])
def test_a_workplace_that_is_taken_for_a_dead_ones(when, tmp_path, monkeypatch):
    """Until it is locked, it looks like one. Then another is made."""
    lock, calls = workplaces._lock, []

    def lose_the_first(place):
        calls.append(place)
        if len(calls) > 1:
            return lock(place)
        if when == "before it is opened":
            place.rmdir()
        if when == "while it is being removed":
            place.rmdir()
            raise BlockingIOError
        descriptor = lock(place)
        place.rmdir()
        return descriptor

    monkeypatch.setattr(workplaces, "_lock", lose_the_first)
    with workplace(tmp_path / "a") as place:
        assert place == calls[1] != calls[0] and names(tmp_path) == [place.name]
    assert names(tmp_path) == []


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
    monkeypatch.setattr(workplaces, "refuse", lambda *unused: None)
    monkeypatch.setattr(workplaces, "_boot", lambda: f"{os.getpid():08x}")
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
        workplaces.clean_up(path)
        assert names(tmp_path) == ["a"]
        assert is_whole(path) if kind == "directory" else len({*path.read_text()}) == 1


def make_one(path):
    return lambda letter: write_whole_directory(path, lambda to: write_big(to, letter), BY, {}, True)


def is_whole(path):
    texts = {(path / name).read_text() for name in ("a", "sub/b")}
    return names(path) == ["a", RECORD, "sub"] and len(texts) == 1 and json.loads((path / RECORD).read_text())
