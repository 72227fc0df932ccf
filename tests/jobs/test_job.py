"""Jobs that are begun, resumed, refused and finished; and what becomes of their output."""

from __future__ import annotations

import errno
import io
import json
import logging
import os
import resource
import shutil
from pathlib import Path

import pytest
import tiny_jobs
from tiny_jobs import FINGERPRINT, decode, expected, lines_of, result_of, run_of

from fairseq_el.errors import FairseqElError, OptionError
from fairseq_el.files import staging_directory
from fairseq_el.jobs import Input, Share, discard_journal, fingerprint_of, merge, open_job

PIPE = Input("standard input")


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def stop_after(work: Path, count: int, **options) -> None:
    """Decodes the first lines, and stops."""
    with open_job(run_of(work / "in.txt"), work / "out.txt", work / "out.txt.journal", **options) as job:
        wanted = [number for number, line in enumerate(lines_of(40)) if job.wants(number, line)]
        job.write(*map(result_of, wanted[:count]))


def decoded(log: Path) -> list[int]:
    return [int(number) for number in log.read_text().split()]


@pytest.mark.parametrize("name", ["text", "jsonl", "fairseq"])
def test_a_job_that_is_not_interrupted(work, name):
    with open_job(run_of(work / "in.txt", format=name), work / "out.txt", work / "out.txt.journal") as job:
        for number in reversed(range(40)):
            assert not (work / "out.txt").exists()
            assert job.wants(number, f"line {number}")
            job.write(result_of(number))
            assert (job.num_done, job.held_back) == (40 - number, 40 - number if number else 0)
        job.finish()
        assert (work / "out.txt").read_bytes() == expected(40, name)
    assert names(work) == ["in.txt", "out.txt", "out.txt.journal"]
    assert names(work / "out.txt.journal") == ["finished.json", "part-0-1.jsonl", "run.json", "status-0.json"]


def test_what_is_contiguous_can_be_read_before_the_end(work):
    with open_job(run_of(work / "in.txt"), work / "out.txt", work / "out.txt.journal") as job:
        partial = work / "out.txt.journal" / "output-1.partial"
        for count, number in enumerate([1, 0, 3, 2]):
            job.write(result_of(number))
            assert partial.read_bytes() == expected([0, 2, 2, 4][count])
    assert partial.read_bytes() == expected(4)


def test_a_stopped_job_goes_on(work, tmp_path):
    log = tmp_path / "log"
    stop_after(work, 17)
    decode(work, resume=True, log=log)
    assert sorted(decoded(log)) == list(range(17, 40))
    assert (work / "out.txt").read_bytes() == expected(40)
    assert not list((work / "out.txt.journal").glob("*.partial"))


def identity_of(path: Path) -> tuple[int, int]:
    """Changes when a file is written or replaced, and not when it is read."""
    status = os.stat(path)
    return status.st_ino, status.st_mtime_ns


def test_a_finished_job_has_nothing_left_to_do(work, tmp_path):
    decode(work)
    before = identity_of(work / "out.txt")
    decode(work, resume=True, log=tmp_path / "log")
    assert not (tmp_path / "log").exists() and identity_of(work / "out.txt") == before
    os.remove(work / "out.txt")
    decode(work, resume=True, log=tmp_path / "log")
    assert not (tmp_path / "log").exists() and (work / "out.txt").read_bytes() == expected(40)


def test_resume_where_nothing_is_there_begins(work):
    decode(work, resume=True)
    assert (work / "out.txt").read_bytes() == expected(40)


class TestRefused:
    """Nothing is changed, and the message says what to do."""

    def refuses(self, work: Path, match: str, error=OptionError, **options) -> None:
        before = {path: path.read_bytes() for path in work.rglob("*") if path.is_file()}
        with pytest.raises(error, match=match):
            decode(work, **options)
        assert {path: path.read_bytes() for path in work.rglob("*") if path.is_file()} == before

    def test_a_journal_without_resume(self, work):
        stop_after(work, 3)
        match = (
            r"out\.txt\.journal is the journal of a job that has not finished: go on with it by --resume, or remove it"
        )
        self.refuses(work, match)
        self.refuses(work, match, force=True)  # hours of work are not lost by a habit

    def test_a_finished_journal_whose_output_was_moved(self, work):
        decode(work)
        (work / "out.txt").rename(work / "moved.txt")
        self.refuses(work, "of a job that has finished: go on with it by --resume, or remove it")

    def test_an_output_that_exists(self, work):
        (work / "out.txt").write_text("mine")
        self.refuses(work, r"--output .*out\.txt exists already; choose another name, or add --force")
        stop_after(work, 3, force=True)
        self.refuses(work, r"--output .*out\.txt exists already", resume=True)

    def test_an_output_that_was_changed_after_the_end(self, work):
        decode(work)
        (work / "out.txt").write_text("changed")
        self.refuses(work, r"--output .*out\.txt exists already")
        with pytest.raises(FairseqElError, match=r"is not what this job writes\. Nothing was replaced: choose another"):
            decode(work, resume=True)
        assert (work / "out.txt").read_text() == "changed"

    def test_an_output_that_appears_meanwhile(self, work):
        with open_job(run_of(work / "in.txt"), work / "out.txt", work / "out.txt.journal") as job:
            job.write(*map(result_of, range(40)))
            (work / "out.txt").write_text("mine")
            with pytest.raises(FairseqElError, match="is not what this job writes"):
                job.finish()
        assert (work / "out.txt").read_text() == "mine"

    def test_the_input_as_output(self, work):
        with pytest.raises(OptionError, match="must not be what is read"):
            open_job(run_of(work / "in.txt"), work / "in.txt", work / "journal", force=True, inputs=[work / "in.txt"])

    def test_an_output_in_no_directory(self, work):
        with pytest.raises(OptionError, match="must be in a directory that exists"):
            open_job(run_of(work / "in.txt"), work / "no" / "out.txt", work / "journal")

    @pytest.mark.parametrize("make", ["file", "directory"])
    def test_a_journal_that_is_something_else(self, work, make):
        path = work / "out.txt.journal"
        if make == "file":
            path.write_text("mine")
        else:
            path.mkdir()
            (path / "notes").write_text("mine")
        match = "is a file" if make == "file" else "has files that no job has made, such as notes"
        self.refuses(work, match)
        self.refuses(work, match, resume=True, force=True)

    def test_all_that_was_changed_is_listed(self, work):
        stop_after(work, 3)
        other = {"checkpoints": ["1" * 64, "2" * 64], "options": {"beam": 4, "sampling": True}}
        tiny_jobs.write_input(work / "in.txt", 41)
        run = run_of(work / "in.txt", fingerprint=other, format="jsonl")
        with pytest.raises(OptionError) as raised:
            open_job(run, work / "out.txt", work / "out.txt.journal", resume=True)
        first, *changed, last = str(raised.value).split("\n")
        assert first.startswith("a job is resumed with all that can change its results as it was")
        assert [line.partition(":")[0] for line in changed] == [
            f"  - {name}"
            for name in (
                *("checkpoints.0", "checkpoints.1", "format", "input.lines", "input.sha256", "input.size"),
                *("options.beam", "options.lenpen", "options.sampling"),
            )
        ]
        assert "  - checkpoints.0: 000000000000... before, 111111111111... now" in changed
        assert "  - options.beam: 5 before, 4 now" in changed
        assert "  - options.lenpen: 1.0 before, not there now" in changed
        assert '  - format: "text" before, "jsonl" now' in changed
        assert last.startswith("Give the same again, or remove")

    def test_one_flipped_byte_of_the_input(self, work):
        stop_after(work, 3)
        (work / "in.txt").write_text((work / "in.txt").read_text().replace("line 39", "line 38"))
        self.refuses(work, r"  - input\.sha256: \w{12}\.\.\. before", resume=True)

    def test_a_worker_with_a_strange_name(self, work):
        with pytest.raises(ValueError, match="letters, digits"):
            open_job(run_of(work / "in.txt"), work / "out.txt", work / "out.txt.journal", worker="../a-1")


def test_a_copy_of_the_input_under_another_name_does_as_well(work):
    stop_after(work, 3)
    shutil.copy(work / "in.txt", work / "copy.txt")
    with open_job(run_of(work / "copy.txt"), work / "out.txt", work / "out.txt.journal", resume=True) as job:
        assert job.num_done == 3


def test_other_versions_are_noted(work, caplog):
    stop_after(work, 3)
    run = run_of(work / "in.txt", versions={"torch": "2.0"})
    open_job(run, work / "out.txt", work / "out.txt.journal", resume=True).close()
    assert "made with torch 1.2, now 2.0; scores may differ" in caplog.text


def test_force_replaces_an_output_when_the_new_one_is_whole(work):
    (work / "out.txt").write_text("old")
    stop_after(work, 3, force=True)
    assert (work / "out.txt").read_text() == "old"
    decode(work, resume=True, force=True)
    assert (work / "out.txt").read_bytes() == expected(40)


def test_force_begins_a_finished_job_again(work, tmp_path):
    decode(work)
    decode(work, force=True, log=tmp_path / "log")
    assert len(decoded(tmp_path / "log")) == 40 and (work / "out.txt").read_bytes() == expected(40)


def test_a_journal_with_files_of_others_is_not_removed(work):
    decode(work)
    (work / "out.txt.journal" / "notes").write_text("mine")
    with pytest.raises(FairseqElError, match=r"has files that no job has made, such as notes\. Nothing"):
        discard_journal(work / "out.txt.journal")
    assert (work / "out.txt.journal" / "run.json").exists()
    os.remove(work / "out.txt.journal" / "notes")
    with staging_directory(work / "out.txt.journal" / "run.json"):
        discard_journal(work / "out.txt.journal")
    assert names(work) == ["in.txt", "out.txt"]


def test_an_output_that_is_a_link(work):
    (work / "elsewhere").mkdir()
    (work / "out.txt").symlink_to(work / "elsewhere" / "target.txt")
    decode(work)
    assert (work / "out.txt").is_symlink() and (work / "elsewhere" / "target.txt").read_bytes() == expected(40)
    assert names(work / "elsewhere") == ["target.txt"]


@pytest.mark.parametrize("force", [False, True])
def test_a_journal_on_another_file_system(work, monkeypatch, force):
    """A file can't be renamed from one file system to another."""

    def refuse(source, target, *rest, real, **options):
        if ".journal" in str(source) and ".journal" not in str(target):
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))
        return real(source, target, *rest, **options)

    for name in ("link", "rename", "replace"):
        real = getattr(os, name)
        monkeypatch.setattr(os, name, lambda *args, real=real, **options: refuse(*args, real=real, **options))
    decode(work, force=force)
    assert (work / "out.txt").read_bytes() == expected(40)
    assert names(work) == ["in.txt", "out.txt", "out.txt.journal"]
    assert not list((work / "out.txt.journal").glob("*.partial"))


def test_two_processes_that_do_the_same_job(work):
    """As when one was thought dead. Both end well, and nothing of either is left."""
    jobs = [
        open_job(run_of(work / "in.txt"), work / "out.txt", work / "out.txt.journal", resume=True) for _ in range(2)
    ]
    for number in range(40):
        for job in jobs:
            job.write(result_of(number))
    for job in jobs:
        job.finish()
        assert (work / "out.txt").read_bytes() == expected(40)
    assert not list((work / "out.txt.journal").glob("*.partial"))


def test_the_one_that_was_thought_dead_ends_first(work):
    """Its unfinished output was removed: it writes another one."""
    first = open_job(run_of(work / "in.txt"), work / "out.txt", work / "out.txt.journal")
    stop_after(work, 1, resume=True)
    first.write(*map(result_of, range(40)))
    first.finish()
    assert (work / "out.txt").read_bytes() == expected(40)


def test_a_result_that_is_missing(work):
    with open_job(run_of(work / "in.txt"), work / "out.txt", work / "out.txt.journal") as job:
        job.write(*map(result_of, {*range(40)} - {7, 8}))
        with pytest.raises(FairseqElError, match="2 are missing: 8 to 9"):
            job.finish()
    assert not (work / "out.txt").exists()


def test_a_full_disk(work, tmp_path):
    """Files may not grow beyond some bytes. When there is room again, the job goes on."""
    whole = len(expected(40))
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    for limit in (5, 700, 2000, whole - 3):
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
        try:
            with pytest.raises(OSError, match="File too large") as raised:
                decode(work, resume=True)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
        assert raised.value.filename is not None or limit == 5
        assert not (work / "out.txt").exists()
    log = tmp_path / "log"
    decode(work, resume=True, log=log)
    assert len(decoded(log)) < 40 and (work / "out.txt").read_bytes() == expected(40)


@pytest.mark.parametrize("content", ["", "{}", '{"lines": "x"}'])
def test_a_damaged_note_of_the_end(work, content):
    """It is written again."""
    decode(work)
    (work / "out.txt").unlink()
    (work / "out.txt.journal" / "finished.json").write_text(content)
    decode(work, resume=True)
    assert (work / "out.txt").read_bytes() == expected(40)
    assert json.loads((work / "out.txt.journal" / "finished.json").read_text()) == {"lines": 40}


class TestWithoutJournal:
    def test_to_a_file(self, work):
        with open_job(run_of(work / "in.txt"), work / "out.txt") as job:
            for number in reversed(range(40)):
                job.write(result_of(number))
            assert job.held_back == 0 and job.num_done == 40
            job.finish()
        assert (work / "out.txt").read_bytes() == expected(40) and names(work) == ["in.txt", "out.txt"]

    def test_stopped(self, work):
        with open_job(run_of(work / "in.txt"), work / "out.txt") as job:
            job.write(result_of(0))
            with pytest.raises(FairseqElError, match="there must be a result for each of 40 lines; there are 1"):
                job.finish()
        assert names(work) == ["in.txt"]

    def test_a_pipe_to_a_pipe(self, work):
        output = io.BytesIO()
        with open_job(run_of(work / "in.txt", input=PIPE), output) as job:
            for number, written in ((1, 0), (0, 2), (3, 2), (2, 4)):
                assert job.wants(number, "any")
                job.write(result_of(number))
                assert output.getvalue() == expected(written)
            job.finish(4)
        assert output.getvalue() == expected(4)

    def test_a_full_standard_output(self, work):
        with open("/dev/full", "wb") as full, open_job(run_of(work / "in.txt", input=PIPE), full) as job:
            with pytest.raises(OSError, match="standard output"):
                job.write(result_of(0))
            full.raw.close()


class TestPipe:
    """A pipe's lines come again when a job is resumed: those that have a result must be what they were."""

    def job(self, work, output, **options):
        return open_job(run_of(work / "in.txt", input=PIPE), output, work / "out.journal", resume=True, **options)

    def feed(self, job, lines):
        return [number for number, line in enumerate(lines) if job.wants(number, line)]

    def test_to_a_pipe(self, work):
        """What was written before is written again."""
        outputs = [io.BytesIO(), io.BytesIO()]
        with self.job(work, outputs[0]) as job:
            assert self.feed(job, lines_of(8)) == list(range(8))
            job.write(*map(result_of, (5, 0, 1)))
        assert outputs[0].getvalue() == expected(2)
        with self.job(work, outputs[1]) as job:
            assert self.feed(job, lines_of(8)) == [2, 3, 4, 6, 7]
            job.write(*map(result_of, (2, 3, 4, 6, 7)))
            job.finish(8)
        assert outputs[1].getvalue() == expected(8)
        merged = io.BytesIO()
        merge(work / "out.journal", merged)
        assert merged.getvalue() == expected(8)

    def test_another_line(self, work):
        with self.job(work, work / "out.txt") as job:
            self.feed(job, lines_of(8))
            job.write(*map(result_of, range(5)))
        with self.job(work, work / "out.txt") as job:
            lines = lines_of(8)
            lines[6] = "another one, which has no result yet"
            assert self.feed(job, lines) == [5, 6, 7]
            lines[3] = "another one"
            with pytest.raises(FairseqElError, match="line 4 of standard input must be what it was when"):
                self.feed(job, lines)

    def test_fewer_lines(self, work):
        with self.job(work, work / "out.txt") as job:
            self.feed(job, lines_of(8))
            job.write(*map(result_of, range(5)))
        with self.job(work, work / "out.txt") as job:
            assert self.feed(job, lines_of(3)) == []
            with pytest.raises(FairseqElError, match="has a result of line 5, and the input has ended after 3"):
                job.finish(3)
        with pytest.raises(FairseqElError, match="reads a pipe that has not ended"):
            merge(work / "out.journal", work / "out.txt")

    def test_the_number_of_lines_must_be_told(self, work):
        with self.job(work, work / "out.txt") as job, pytest.raises(ValueError, match="number of lines"):
            job.finish()

    def test_a_file_is_something_else(self, work):
        with self.job(work, work / "out.txt") as job:
            assert job.wants(0, "line 0")
            job.write(result_of(0))
        with pytest.raises(OptionError, match=r"  - input\.lines: null before, 40 now"):
            open_job(run_of(work / "in.txt"), work / "out.txt", work / "out.journal", resume=True)


class TestShares:
    def test_in_any_order_and_twice(self, work, tmp_path):
        for index in (2, 0, 2, 1, 0):
            decode(work, share=Share(index, 3), log=tmp_path / "log")
            assert not (work / "out.txt").exists()
        assert sorted(decoded(tmp_path / "log")) == list(range(40))
        merge(work / "out.txt.journal", work / "out.txt")
        assert (work / "out.txt").read_bytes() == expected(40)
        merge(work / "out.txt.journal", work / "out.txt")  # once more does nothing
        decode(work, share=Share(1, 3))

    def test_a_share_that_runs_twice_at_once(self, work, caplog):
        def opened():
            return open_job(run_of(work / "in.txt"), work / "out.txt", work / "out.txt.journal", share=Share(1, 4))

        with opened() as one, opened() as other:
            for job in (one, other):
                job.write(*[result_of(number) for number in range(40) if job.wants(number, "")])
                job.finish()
        for index in (0, 2, 3):
            decode(work, share=Share(index, 4))
        merge(work / "out.txt.journal", work / "out.txt")
        assert (work / "out.txt").read_bytes() == expected(40) and not caplog.records

    @pytest.mark.parametrize("of", [1, 3, 5])
    def test_another_number_of_them_goes_on(self, work, tmp_path, of):
        log = tmp_path / "log"
        decode(work, share=Share(1, 4), log=log)
        stop_after(work, 5, share=Share(2, 4))
        for index in range(of):
            decode(work, share=Share(index, of), resume=True, log=log)
        assert len(decoded(log)) == 35
        merge(work / "out.txt.journal", work / "out.txt")
        assert (work / "out.txt").read_bytes() == expected(40)

    def test_of_another_job(self, work):
        decode(work, share=Share(1, 4))
        run = run_of(work / "in.txt", fingerprint={**FINGERPRINT, "options": {"beam": 4}})
        with pytest.raises(OptionError, match=r"options\.beam: 5 before, 4 now"):
            open_job(run, work / "out.txt", work / "out.txt.journal", share=Share(0, 4))

    def test_an_output_that_exists_is_refused_before_hours_of_work(self, work):
        (work / "out.txt").write_text("mine")
        with pytest.raises(OptionError, match="exists already"):
            decode(work, share=Share(1, 4))

    @pytest.mark.parametrize("what", ["pipe", "stream", "no journal"])
    def test_need_files(self, work, what):
        run = run_of(work / "in.txt", **({"input": PIPE} if what == "pipe" else {}))
        output = io.BytesIO() if what == "stream" else work / "out.txt"
        with pytest.raises(OptionError, match="--shard needs files"):
            open_job(run, output, None if what == "no journal" else work / "journal", share=Share(0, 2))


def test_merging_in_another_format(work):
    decode(work)
    merge(work / "out.txt.journal", work / "out.jsonl", "jsonl")
    assert (work / "out.jsonl").read_bytes() == expected(40, "jsonl")
    with pytest.raises(FairseqElError, match="is not what this job writes"):
        merge(work / "out.txt.journal", work / "out.jsonl", "fairseq")
    merge(work / "out.txt.journal", work / "out.jsonl", "fairseq", replace=True)
    assert (work / "out.jsonl").read_bytes() == expected(40, "fairseq")


def test_fingerprints_are_of_contents(tmp_path):
    for name in ("a", "b", "c"):
        (tmp_path / name).write_text("same" if name < "c" else "other")
    prints = [
        fingerprint_of({"checkpoints": [tmp_path / name]}, {"beam": 5, "path": Path("x"), "pair": (1, 2)})
        for name in ("a", "b", "c")
    ]
    assert prints[0] == prints[1] != prints[2]
    assert json.loads(json.dumps(prints[0], default=str))["options"] == {"beam": 5, "path": "x", "pair": [1, 2]}


def test_values_that_json_lacks_are_compared_as_text(work):
    odd = {"options": {"pair": (1, 2), "path": Path("x"), "dtype": logging.INFO}}
    for resume in (False, True):
        run = run_of(work / "in.txt", fingerprint=odd)
        open_job(run, work / "out.txt", work / "out.txt.journal", resume=resume).close()
