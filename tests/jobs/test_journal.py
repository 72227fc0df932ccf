"""Results on disk: torn, damaged and contradicting ones, by one worker or several."""

from __future__ import annotations

import contextlib
import errno
import os
import resource
from pathlib import Path

import pytest
import tiny_jobs
from tiny_jobs import result_of

from fairseq_el.errors import FairseqElError
from fairseq_el.jobs import Hypothesis, Journal, Result, merge
from fairseq_el.jobs.journal import as_ranges
from fairseq_el.jobs.run_file import write_run


@pytest.fixture
def directory(work) -> Path:
    """An empty journal."""
    path = work / "journal"
    path.mkdir()
    write_run(path, tiny_jobs.run_of(work / "in.txt"), None)
    return path


def written(directory: Path, numbers, worker="0") -> Path:
    """A part with these results."""
    before = set(directory.iterdir())
    with contextlib.closing(Journal(directory, worker)) as journal:
        journal.append([result_of(number) for number in numbers])
    (part,) = set(directory.iterdir()) - before
    return part


def numbers_in(directory: Path) -> set[int]:
    """The lines that have a result; each result is the right one."""
    with contextlib.closing(Journal(directory)) as journal:
        found = {number for number in range(40) if number in journal}
        assert len(journal) == len(found)
        assert all(journal.result(number) == result_of(number) for number in found)
        return found


def other(number: int) -> Result:
    return Result(number, "", (Hypothesis("other", "other", -1.0, (-1.0,)),))


def test_every_attempt_of_every_worker_has_a_part_of_its_own(directory):
    parts = [written(directory, [number], worker) for number, worker in enumerate(["0", "0", "1", "a_b", "0"])]
    assert [part.name for part in parts] == [
        *("part-0-1.jsonl", "part-0-2.jsonl", "part-1-1.jsonl", "part-a_b-1.jsonl", "part-0-3.jsonl")
    ]
    assert numbers_in(directory) == {0, 1, 2, 3, 4}


def test_workers_that_are_open_at_once(directory):
    """None writes to the part of another, even under one name."""
    journals = [Journal(directory, "0") for _ in range(3)]
    for number in range(12):
        journals[number % 3].append([result_of(number)])
    for journal in journals:
        journal.close()
    assert len(list(directory.glob("part-0-*.jsonl"))) == 3
    assert numbers_in(directory) == set(range(12))


def test_a_torn_last_line_of_every_length(directory, caplog):
    part = written(directory, [1, 2])
    whole = part.read_bytes()
    first = whole.index(b"\n") + 1
    for end in range(first, len(whole)):
        part.write_bytes(whole[:end])
        assert numbers_in(directory) == {1}, end
    assert not caplog.records  # a kill leaves such lines


def test_what_comes_after_a_torn_line_is_in_a_part_of_its_own(directory):
    part = written(directory, [1, 2])
    part.write_bytes(part.read_bytes()[:-5])
    written(directory, [2, 3])
    assert numbers_in(directory) == {1, 2, 3}


def test_a_flipped_byte_anywhere_loses_no_more_than_its_line_and_the_next(directory, caplog):
    part = written(directory, [1, 2, 3])
    whole = part.read_bytes()
    for place in range(len(whole)):
        part.write_bytes(whole[:place] + bytes([whole[place] ^ 0x10]) + whole[place + 1 :])
        in_line = whole.count(b"\n", 0, place) + 1
        ends_line = whole[place : place + 1] == b"\n"
        caplog.clear()
        assert numbers_in(directory) == {1, 2, 3} - {in_line} - ({in_line + 1} if ends_line else set()), place
        if place < len(whole) - 1:  # or else it is a last line that has no end
            (message,) = caplog.messages
            assert f"line {in_line} of part-0-1.jsonl" in message and "decoded again" in message


def test_a_byte_that_became_the_end_of_a_line(directory):
    part = written(directory, [1, 2, 3])
    whole = part.read_bytes()
    begin, end = whole.index(b"\n") + 1, whole.index(b"\n", whole.index(b"\n") + 1)
    for place in range(begin, end):
        part.write_bytes(whole[:place] + b"\n" + whole[place + 1 :])
        assert numbers_in(directory) == {1, 3}, place


def test_a_second_result_that_is_equal_changes_nothing(directory, caplog):
    journals = [Journal(directory, worker) for worker in "01"]
    for journal in journals:
        assert journal.append([result_of(1), result_of(1)]) == [result_of(1)]
        assert journal.append([result_of(1)]) == []
        journal.close()
    assert numbers_in(directory) == {1}
    assert Journal(directory).conflicts == [] and not caplog.records


def test_of_two_results_that_differ_the_first_is_used(directory, caplog):
    journals = [Journal(directory, worker) for worker in "01"]
    journals[0].append([result_of(1)])
    assert journals[0].append([other(1)]) == [] and "line 2 has a second result" in caplog.text
    journals[1].append([other(1), result_of(2)])
    for journal in journals:
        journal.close()
    caplog.clear()
    assert numbers_in(directory) == {1, 2}
    (message,) = caplog.messages
    assert message.startswith("1 lines have two results") and message.endswith("lines 2")


def test_a_full_disk(directory):
    """Half a group is written. What is there is kept, and goes on in another part."""
    journal = Journal(directory)
    journal.append([result_of(0)])
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(OSError, match="File too large") as raised:
            journal.append([result_of(number) for number in range(1, 10)])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    assert raised.value.errno == errno.EFBIG and raised.value.filename.endswith("part-0-1.jsonl")
    with pytest.raises(OSError, match="could not be written before"):  # nothing comes behind half a line
        journal.append([result_of(10)])
    journal.close()
    there = numbers_in(directory)
    assert {0, 1} <= there < set(range(10))
    written(directory, range(20))
    assert numbers_in(directory) == set(range(20))


def test_a_system_that_writes_a_few_bytes_at_a_time(directory, monkeypatch):
    write = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, content: write(descriptor, content[:7]))
    written(directory, range(10))
    assert numbers_in(directory) == set(range(10))


def test_a_group_is_written_at_once_and_the_disk_waited_for_every_second(directory, monkeypatch):
    calls, now = [], [0.0]
    for name in ("write", "fdatasync"):
        real = getattr(os, name, os.fsync)
        monkeypatch.setattr(os, name, lambda *args, name=name, real=real: calls.append(name) or real(*args), False)
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    journal = Journal(directory)
    journal.append([result_of(number) for number in range(300)])
    journal.append([result_of(300)])
    assert calls == ["write", "write"]
    for count in (301, 302):
        now[0] += 1.5
        journal.append([result_of(count)])
        assert calls[-2:] == ["write", "fdatasync"]
    journal.append([result_of(303)])
    assert calls[-1] == "write"
    journal.close()
    journal.close()
    assert calls[-2:] == ["write", "fdatasync"] and len(calls) == 8


def test_results_that_change_while_they_are_used(directory):
    part = written(directory, range(3))
    journal = Journal(directory)
    part.write_bytes(part.read_bytes().replace(b"text 1", b"text 7"))
    assert journal.result(0) == result_of(0)
    with pytest.raises(FairseqElError, match=r"part-0-1.jsonl and what follows was changed while it was used"):
        journal.result(1)


def test_many_parts_are_read_with_few_open_files(directory):
    for number in range(40):
        written(directory, [number])
    journal = Journal(directory)
    before = len(os.listdir("/proc/self/fd"))
    assert [journal.result(number) for number in range(40)] == [result_of(number) for number in range(40)]
    assert len(os.listdir("/proc/self/fd")) - before <= 32
    journal.close()
    assert len(os.listdir("/proc/self/fd")) == before


def test_lines_that_are_missing_are_named(directory):
    written(directory, {*range(40)} - {0, 3, 4, 5, 39})
    with pytest.raises(FairseqElError, match=r"40 lines, and 5 are missing: 1, 4 to 6, 40\. Run the shards"):
        merge(directory, directory / "out")
    assert not (directory / "out").exists()


@pytest.mark.parametrize(
    ("numbers", "named"),
    [([], ""), ([4], "5"), ([0, 1, 2], "1 to 3"), (range(0, 20, 2), "1, 3, 5, 7, 9, 11, 13, 15, 17, 19")],
)
def test_names_of_lines(numbers, named):
    assert as_ranges(numbers) == (len(numbers), named)
    many, names = as_ranges(iter(range(0, 10**5, 2)))
    assert many == 50_000 and names == "1, 3, 5, 7, 9, 11, 13, 15, 17, 19, ..."


@pytest.mark.parametrize("change", ["", "not json", "[]", '{"version": 2}'])
def test_a_run_file_that_is_not_one(directory, change):
    (directory / "run.json").write_text(change)
    with pytest.raises(FairseqElError, match=r"run\.json"):
        Journal(directory)


def test_any_byte_of_the_run_file_that_was_changed_is_found(directory):
    path = directory / "run.json"
    whole = path.read_bytes()
    for place in range(0, len(whole), 3):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(FairseqElError, match=r"run\.json"):
            Journal(directory)


def test_a_directory_that_is_no_journal(tmp_path):
    with pytest.raises(FairseqElError, match=r"must be a journal of fairseq-el generate; it has no run\.json"):
        Journal(tmp_path)
