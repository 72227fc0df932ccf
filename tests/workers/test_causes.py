"""Which of several failed workers is named, and whether all are started again."""

from __future__ import annotations

import pytest

from fairseq_el.errors import OptionError
from fairseq_el.workers import WorkerError, local, refuse_too_many_workers, run_workers


@pytest.fixture
def run(monkeypatch):
    """Runs workers that end with the given statuses, a map by rank for each attempt; gives the number of attempts."""

    def run(*attempts: dict[int, int], restarts: int = 3) -> int:
        left = list(attempts)
        monkeypatch.setattr(local, "_run_once", lambda *unused: left.pop(0))
        monkeypatch.setattr("os.environ", dict(local.os.environ))
        run_workers(["module"], 2, restarts)
        return len(attempts) - len(left)

    return run


def test_a_killed_worker_is_started_again(run):
    assert run({1: -9}, {0: 3, 1: -15}, {}) == 3


@pytest.mark.parametrize(
    ("failed", "worker", "status"),
    [({0: 3, 1: 1}, 1, 1), ({0: -9, 1: 2}, 1, 2), ({0: 3}, 0, 3), ({0: -9, 1: 3}, 0, 137)],
)
def test_the_cause_is_named(run, failed, worker, status):
    with pytest.raises(WorkerError, match=f"worker {worker} has stopped with exit status {status};") as raised:
        run(failed, restarts=0)
    assert raised.value.exit_status == status


def test_a_message_ends_the_job_at_once(run):
    with pytest.raises(WorkerError, match="exit status 1"):
        run({0: 1}, {})


def test_a_card_for_each_worker(monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    refuse_too_many_workers(2, on_card=True)
    refuse_too_many_workers(3, on_card=False)
    with pytest.raises(OptionError, match=r"at most the number of cards, 2: each takes one; it is 3\. Add --cpu"):
        refuse_too_many_workers(3, on_card=True)
