"""Files are whole or not there."""

from __future__ import annotations

import pytest

from fairseq_el.errors import OptionError
from fairseq_el.whole_files import (
    refuse_to_overwrite,
    refuse_to_overwrite_directory,
    write_whole,
    write_whole_directory,
)


def test_a_file_takes_the_old_ones_place_when_it_is_whole(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    seen = []

    def write(unfinished):
        unfinished.write_text("new")
        seen.append((unfinished.suffix, path.read_text()))

    write_whole(path, write)
    assert seen == [(".txt", "old")]
    assert path.read_text() == "new" and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_a_write_that_fails_leaves_the_old_file_alone(error, tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")

    def write(unfinished):
        unfinished.write_text("ne")
        raise error

    with pytest.raises(error):
        write_whole(path, write)
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_what_a_killed_write_has_left_is_overwritten(tmp_path):
    (tmp_path / ".a.unfinished.txt").write_text("half, and longer than the new one")
    write_whole(tmp_path / "a.txt", lambda unfinished: unfinished.write_text("new"))
    assert (tmp_path / "a.txt").read_text() == "new" and len(list(tmp_path.iterdir())) == 1


def test_existing_files_are_refused(tmp_path):
    path = tmp_path / "a.txt"
    refuse_to_overwrite(path, "--out", force=False)
    path.write_text("")
    with pytest.raises(OptionError, match=r"--out .*a\.txt exists already; choose another name, or add --force"):
        refuse_to_overwrite(path, "--out", force=False)
    refuse_to_overwrite(path, "--out", force=True)
    with pytest.raises(OptionError, match=r"--out must name a file; .* is a directory"):
        refuse_to_overwrite(tmp_path, "--out", force=True)


def names(directory):
    return sorted(path.name for path in directory.iterdir())


@pytest.fixture
def directory(tmp_path):
    path = tmp_path / "a"
    path.mkdir()
    (path / "file").write_text("old")
    return path


def write_new(unfinished):
    (unfinished / "new").write_text("new")


def test_a_directory_takes_the_old_ones_place_when_it_is_whole(directory):
    def write(unfinished):
        write_new(unfinished)
        assert names(directory) == ["file"]

    write_whole_directory(directory, write)
    assert names(directory) == ["new"] and names(directory.parent) == ["a"]


def test_a_directory_named_by_a_dot_or_a_link(directory, monkeypatch):
    monkeypatch.chdir(directory)
    (directory.parent / "link").symlink_to(directory)
    write_whole_directory(directory.parent / "link", write_new)
    assert (directory.parent / "link").is_symlink() and names(directory) == ["new"]


@pytest.mark.parametrize("fails", ["write", "rename"])
def test_a_directory_that_is_not_finished_leaves_the_old_one(fails, directory, monkeypatch):
    def write(unfinished):
        write_new(unfinished)
        if fails == "write":
            raise OSError("No space left on device")

    rename = type(directory).rename

    def fail_at_the_second(path, target):
        if path.name.startswith(".a.unfinished-"):
            raise OSError("No space left on device")
        return rename(path, target)

    monkeypatch.setattr(type(directory), "rename", fail_at_the_second)
    with pytest.raises(OSError, match="No space left"):
        write_whole_directory(directory, write)
    assert names(directory) == ["file"] and names(directory.parent) == ["a"]


def test_a_name_with_brackets(tmp_path):
    """Which are none of a pattern when what is left behind is looked for."""
    (tmp_path / ".a[1].unfinished-killed").mkdir()
    write_whole_directory(tmp_path / "a[1]", write_new)
    assert names(tmp_path) == ["a[1]"]


def test_what_a_killed_process_has_left(directory):
    """Between the two renames, the old directory has another name: it is put back before anything is written."""
    directory.rename(directory.with_name(".a.replaced"))
    directory.with_name(".a.unfinished-killed").mkdir()

    def fail(unfinished):
        raise OSError("No space left on device")

    with pytest.raises(OSError, match="No space left"):
        write_whole_directory(directory, fail)
    assert names(directory) == ["file"] and names(directory.parent) == ["a"]


def test_existing_directories_are_refused(directory):
    refuse_to_overwrite_directory(directory.parent / "b", "--out", False, ["file"])
    with pytest.raises(OptionError, match=r"--out .*a exists already; choose another name, or add --force"):
        refuse_to_overwrite_directory(directory, "--out", False, ["file"])
    refuse_to_overwrite_directory(directory, "--out", True, ["file"])
    with pytest.raises(OptionError, match="--force replaces only what convert has written"):
        refuse_to_overwrite_directory(directory, "--out", True, ["file", "model"])
    (directory / "file").unlink()
    refuse_to_overwrite_directory(directory, "--out", False, ["file"])
