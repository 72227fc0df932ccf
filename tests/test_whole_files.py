"""Files and directories are whole or not there."""

from __future__ import annotations

import pytest

from fairseq_el.errors import OptionError
from fairseq_el.whole_files import refuse_to_overwrite, write_whole, write_whole_directory


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


def fill(directory):
    assert list(directory.iterdir()) == []
    (directory / "a").write_text("1")


@pytest.mark.parametrize("old", [[], ["old"]])
def test_directories_are_whole(old, tmp_path):
    path = tmp_path / "data[1]"
    (tmp_path / ".data[1].unfinished-killed").mkdir()
    if old:
        path.mkdir()
        (path / "old").write_text("")

    def fail(directory):
        fill(directory)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_whole_directory(path, fail)
    assert [file.name for file in tmp_path.rglob("*") if file != path] == old
    write_whole_directory(path, fill)
    assert sorted(tmp_path.rglob("*")) == [path, path / "a"]


def test_a_directory_is_put_back_after_a_kill_between_two_renames(tmp_path):
    path = tmp_path / "data"
    (tmp_path / ".data.replaced").mkdir()
    (tmp_path / ".data.replaced" / "old").write_text("")
    with pytest.raises(ZeroDivisionError):
        write_whole_directory(path, lambda directory: 1 / 0)
    assert sorted(tmp_path.rglob("*")) == [path, path / "old"]
