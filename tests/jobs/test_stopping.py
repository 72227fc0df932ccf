"""Signals that ask a job to stop."""

from __future__ import annotations

import os
import signal

import pytest
from processes import NEEDS_FORK, in_fork, wait_for
from tiny_jobs import decode, expected, result_of, run_of

from fairseq_el.jobs import INTERRUPTED, StopSignals, open_job, resuming_command


@NEEDS_FORK
@pytest.mark.parametrize("name", ["SIGTERM", "SIGUSR1"])
def test_a_job_that_is_asked_to_stop_goes_on_later(name, work, tmp_path):
    ready, log = tmp_path / "ready", tmp_path / "log"

    def until_stopped():
        with StopSignals() as stop, open_job(
            run_of(work / "in.txt"), work / "out.txt", work / "out.txt.journal"
        ) as job:
            for number in range(20):
                job.write(result_of(number))
            ready.write_text("")
            while stop.asked is None:
                signal.pause()
            os._exit(INTERRUPTED if stop.asked == name else 1)

    process = in_fork(until_stopped)
    wait_for(ready)
    os.kill(process.pid, getattr(signal, name))
    process.join()
    assert process.exitcode == INTERRUPTED
    decode(work, resume=True, log=log)
    assert len(log.read_text().split()) == 20 and (work / "out.txt").read_bytes() == expected(40)


@NEEDS_FORK
def test_a_second_signal_ends_the_process(tmp_path):
    ready = tmp_path / "ready"

    def deaf():
        with StopSignals() as stop:
            (tmp_path / "begun").write_text("")
            while True:
                if stop.asked:
                    ready.write_text("")
                signal.pause()

    process = in_fork(deaf)
    wait_for(tmp_path / "begun")
    while not ready.exists():
        os.kill(process.pid, signal.SIGUSR1)
        process.join(0.05)
        if process.exitcode is not None:
            break
    os.kill(process.pid, signal.SIGTERM)
    process.join()
    assert process.exitcode in (-signal.SIGTERM, -signal.SIGUSR1)


def test_handlers_are_put_back():
    before = signal.getsignal(signal.SIGTERM)
    with StopSignals() as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.asked == "SIGTERM" and signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    assert signal.getsignal(signal.SIGTERM) == before


def test_the_command_that_goes_on():
    assert resuming_command(["fairseq-el", "generate", "a b"]) == "fairseq-el generate 'a b' --resume"
    assert resuming_command(["fairseq-el", "--resume", "x"]) == "fairseq-el --resume x"
