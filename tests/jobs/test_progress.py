"""The progress of a job, from its journal and the status files of its workers."""

from __future__ import annotations

import json
import time

import pytest
from tiny_jobs import decode, lines_of, result_of, run_of

from fairseq_el.errors import FairseqElError
from fairseq_el.jobs import Input, Share, format_duration, open_job, progress_lines, progress_of


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still until it is moved: ``clock[0] += 1``."""
    now = [1_800_000_000.0]
    monkeypatch.setattr("time.time", lambda: now[0])
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    return now


def opened(work, share=None, **options):
    return open_job(run_of(work / "in.txt"), work / "out.txt", work / "out.txt.journal", share=share, **options)


def take(job, count: int) -> list[int]:
    """The next lines that a job decodes."""
    return [number for number, line in enumerate(lines_of(40)) if job.wants(number, line)][:count]


def tokens_of(numbers) -> int:
    results = map(result_of, numbers)
    return sum(len(result.hypotheses[0].positional_scores) for result in results if result.hypotheses)


def test_workers_are_added_up(work, clock):
    jobs = [opened(work, Share(index, 2)) for index in range(2)]
    for job, results in zip(jobs, (5, 10)):
        numbers = take(job, results)
        clock[0] += 10
        job.write(*map(result_of, numbers))
    found = progress_of(work / "out.txt.journal")
    assert (found.done, found.total, found.finished, found.restarts, found.held_back) == (15, 40, False, 0, 0)
    assert found.sentences_per_second == 5 / 10 + 10 / 10 and found.seconds_left == 25 / 1.5
    tokens = [tokens_of(range(0, 10, 2)), tokens_of(range(1, 20, 2))]
    assert found.tokens_per_second == tokens[0] / 10 + tokens[1] / 10
    states = [(one.worker, one.state, one.sentences) for one in found.workers]
    assert states == [("0", "running", 5), ("1", "running", 10)]
    jobs[0].close()
    clock[0] += 60
    jobs[1].close()
    assert [one.state for one in progress_of(work / "out.txt.journal").workers] == ["stopped", "stopped"]
    assert progress_of(work / "out.txt.journal").seconds_left is None


def test_a_status_is_written_every_ten_seconds(work, clock):
    with opened(work) as job:
        for number in take(job, 20):
            clock[0] += 3
            job.write(result_of(number))
            written = json.loads((work / "out.txt.journal" / "status-0.json").read_text())
            assert written["sentences"] == number // 4 * 4 + 1  # at 3, 15, 27, ... seconds
            assert written["seconds"] == 3 * written["sentences"]


def test_held_back(work, clock):
    with opened(work) as job:
        take(job, 40)
        job.write(*map(result_of, range(1, 11)))
        assert progress_of(work / "out.txt.journal").held_back == 10


def test_restarts_and_the_end(work, clock):
    for _ in range(3):
        with opened(work, resume=True) as job:
            job.write(*map(result_of, take(job, 2)))
    assert progress_of(work / "out.txt.journal").restarts == 2
    decode(work, resume=True)
    found = progress_of(work / "out.txt.journal")
    assert (found.done, found.finished, found.seconds_left, found.restarts) == (40, True, 0.0, 3)
    assert found.workers[0].state == "finished"


def test_a_line_that_was_decoded_twice_counts_once_at_the_end(work, clock):
    jobs = [opened(work, Share(), resume=True) for _ in range(2)]
    for job in jobs:
        job.write(*map(result_of, range(30)))
    assert progress_of(work / "out.txt.journal").done == 40  # no more than there are
    jobs[0].write(*map(result_of, range(30, 40)))
    jobs[0].finish()
    assert progress_of(work / "out.txt.journal").done == 40


def test_workers_without_news(work, clock):
    job = opened(work)
    take(job, 40)
    clock[0] += 1
    job.write(result_of(0))
    clock[0] += 121
    found = progress_of(work / "out.txt.journal")
    assert found.silent == ("0",) and found.sentences_per_second == 0 and found.seconds_left is None
    lines = progress_lines(found)
    assert "workers    1 silent for two minutes" in lines
    assert lines[-1].strip().startswith("no news for 2 min 1 s from worker 0, process ")


def test_lines_for_a_person(work, clock):
    with opened(work) as job:
        numbers = take(job, 10)
        clock[0] += 20
        job.write(*map(result_of, numbers))
        assert progress_lines(progress_of(work / "out.txt.journal")) == [
            "done       10 of 40 lines (25.0%)",
            "speed      0.5 sentences/s, 0.9 tokens/s",
            "left       1 min 0 s",
            "held back  0",
            "restarts   0",
            "workers    1 running",
        ]


def test_a_pipe(work, clock):
    run = run_of(work / "in.txt", input=Input("standard input"))
    with open_job(run, work / "out.txt", work / "out.txt.journal") as job:
        job.write(*map(result_of, range(7)))
        found = progress_of(work / "out.txt.journal")
        assert (found.done, found.total, found.seconds_left) == (7, None, None)
        assert progress_lines(found)[0] == "done       7 lines"
        job.finish(7)
    found = progress_of(work / "out.txt.journal")
    assert (found.done, found.total, found.finished) == (7, 7, True)


def test_an_empty_input(work):
    (work / "in.txt").write_text("")
    decode(work)
    assert (work / "out.txt").read_bytes() == b""
    assert progress_lines(progress_of(work / "out.txt.journal"))[0] == "done       0 lines of 0"


def test_status_files_that_are_none_are_left_out(work, caplog):
    decode(work)
    (work / "out.txt.journal" / "status-1.json").write_text("{}")
    (work / "out.txt.journal" / "status-2.json").write_text("half of")
    assert [one.worker for one in progress_of(work / "out.txt.journal").workers] == ["0"]
    assert len(caplog.messages) == 2


def test_a_job_goes_on_without_its_status(work, caplog):
    (work / "out.txt.journal").mkdir()
    (work / "out.txt.journal" / "status-0.json").mkdir()
    decode(work)
    assert "the status was not written" in caplog.text and (work / "out.txt").exists()


def test_a_directory_without_a_journal(tmp_path):
    with pytest.raises(FairseqElError, match="must be a journal"):
        progress_of(tmp_path)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (59.4, "59 s"), (59.6, "1 min 0 s"), (3725, "1 h 2 min"), (86400 * 3 + 7200, "3 d 2 h")],
)
def test_durations(seconds, text):
    assert format_duration(seconds) == text


def test_time_is_counted_from_the_first_sentence(work, clock):
    """The model is loaded before."""
    with opened(work) as job:
        clock[0] += 1000
        numbers = take(job, 4)
        clock[0] += 2
        job.write(*map(result_of, numbers))
        assert progress_of(work / "out.txt.journal").sentences_per_second == 2.0
    assert time.time() == clock[0]
