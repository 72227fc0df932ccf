"""Files and directories are whole or not there, and replace only what they may."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from processes import (
    BY,
    killed_while_it_writes,
    names,
    write_new,
)

from fairseq_el.errors import FairseqElError
from fairseq_el.files import MANIFEST, write_whole, write_whole_directory


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
        assert names(directory) == ["file", MANIFEST]

    write_whole_directory(directory, write, BY, replace=True)
    assert names(directory) == [MANIFEST, "new"] and names(directory.parent) == ["a"]


def test_a_directory_named_by_a_dot(directory, monkeypatch):
    monkeypatch.chdir(directory)
    write_whole_directory(Path("."), write_new, BY, replace=True)
    assert names(directory) == [MANIFEST, "new"]


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
    assert names(directory) == ["file", MANIFEST] and names(directory.parent) == ["a"]


def add(path):
    (path / "mine").write_text("precious")


def change(path):
    (path / "file").write_text("mine")


def link(path):
    (path / "file").rename(path.parent / "file")
    (path / "file").symlink_to("../file")


def lose_the_manifest(path):
    (path / MANIFEST).unlink()


def be_made_by_another(path):
    text = (path / MANIFEST).read_text()
    (path / MANIFEST).write_text(text.replace(BY, "fairseq-el convert from-hf"))


def break_the_record(path):
    (path / MANIFEST).write_text("[" * 100_000)


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
    lose_the_manifest: f"was not made by fairseq-el recipe generate, .*: it has no {MANIFEST}",
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
    assert names(tmp_path / name) == sorted([MANIFEST, name, "new"])
