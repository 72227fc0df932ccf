"""Jobs that are killed, at every place where they write and at any moment, and then go on."""

from __future__ import annotations

import collections
import os
import random
import signal
import sys
import time
from pathlib import Path

import pytest
from killed_writes import Killer
from processes import NEEDS_FORK, in_fork
from tiny_jobs import decode, expected

from fairseq_el.jobs import Share, merge

pytestmark = NEEDS_FORK


class JobKiller(Killer):
    """Ends the process at its n-th step that changes a file or waits for the disk; of a write, with half of it done."""

    def install(self) -> None:
        self.write = os.write
        os.write = self.at_write
        for name in ("fsync", "fdatasync"):
            real = getattr(os, name, os.fsync)
            setattr(os, name, lambda descriptor, name=name, real=real: self.at_sync(name) or real(descriptor))
        sys.addaudithook(self)

    def at_write(self, descriptor: int, content: bytes) -> int:
        if self.is_last():
            self.write(descriptor, content[: len(content) // 2])
            self.kill("write")
        return self.write(descriptor, content)

    def at_sync(self, name: str) -> None:
        if self.is_last():
            self.kill(name)

    def is_last(self) -> bool:
        self.left -= 1
        return self.left == 0

    def kill(self, event: str) -> None:
        self.busy = True
        self.report.write_text(event)
        os.kill(os.getpid(), signal.SIGKILL)


def counts(log: Path) -> collections.Counter[int]:
    """How often each line was decoded."""
    return collections.Counter(map(int, log.read_text().split())) if log.exists() else collections.Counter()


def run(work: Path, killer: JobKiller | None, **options) -> int:
    """Decodes in another process, and returns how that ended."""

    def act() -> None:
        if killer is not None:
            killer.install()
        decode(work, **options)

    process = in_fork(act)
    process.join()
    return process.exitcode


def killed_everywhere(tmp_path: Path, act):
    """Runs ``act(killer, work, log)`` in a new directory for each place at which a run of it can be killed."""
    for at in range(1, 1000):
        place = tmp_path / str(at)
        work = place / "work"
        work.mkdir(parents=True)
        killer = JobKiller(at, work, place / "report")
        if not act(killer, work, place / "log"):
            assert not (place / "report").exists()
            return
        yield (place / "report").read_text().partition(" ")[0], work, place / "log"


def test_killed_at_every_write(tmp_path):
    """What the output's name has is all or nothing; nothing is missing, and nothing decoded more than twice."""
    events = collections.Counter()

    def killed(killer, work, log):
        (work / "in.txt").write_text("".join(f"line {number}\n" for number in range(40)))
        return run(work, killer, log=log, group=4) == -signal.SIGKILL

    for event, work, log in killed_everywhere(tmp_path, killed):
        events[event] += 1
        output = work / "out.txt"
        assert not output.exists() or output.read_bytes() == expected(40), event
        assert run(work, None, resume=True, log=log, group=4, seed=1) == 0, event
        assert output.read_bytes() == expected(40), event
        decoded = counts(log)
        assert sorted(decoded) == list(range(40)) and decoded.most_common(1)[0][1] <= 2, event
        assert sum(decoded.values()) <= 40 + 4, event  # no more than the group that was being written
        left = sorted(path.name for path in (work / "out.txt.journal").iterdir() if path.name[0] not in "ps")
        assert left == ["finished.json", "run.json"], event
    assert {"open", "os.mkdir", "os.rename", "os.link", "write", "fsync", "fdatasync"} <= events.keys()
    assert events["write"] >= 10


def test_killed_at_every_write_of_a_job_that_goes_on(tmp_path):
    """The second run is killed too, and another one follows."""

    def killed(killer, work, log):
        (work / "in.txt").write_text("".join(f"line {number}\n" for number in range(40)))
        first = JobKiller(20, work, log.with_name("first"))
        assert run(work, first, log=log, group=8) == -signal.SIGKILL and not (work / "out.txt").exists()
        return run(work, killer, resume=True, log=log, group=8, seed=1) == -signal.SIGKILL

    for event, work, log in killed_everywhere(tmp_path, killed):
        assert run(work, None, resume=True, log=log, group=8, seed=2) == 0, event
        assert (work / "out.txt").read_bytes() == expected(40), event
        assert sorted(counts(log)) == list(range(40)) and sum(counts(log).values()) <= 40 + 16, event


def test_a_merge_that_is_killed_at_every_write(tmp_path):
    def killed(killer, work, log):
        (work / "in.txt").write_text("".join(f"line {number}\n" for number in range(40)))
        for index in range(2):
            decode(work, share=Share(index, 2))

        def act() -> None:
            killer.install()
            merge(work / "out.txt.journal", work / "out.txt")

        process = in_fork(act)
        process.join()
        return process.exitcode == -signal.SIGKILL

    for event, work, _ in killed_everywhere(tmp_path, killed):
        assert not (work / "out.txt").exists() or (work / "out.txt").read_bytes() == expected(40), event
        merge(work / "out.txt.journal", work / "out.txt")
        assert (work / "out.txt").read_bytes() == expected(40), event
        assert sorted(path.name for path in work.iterdir()) == ["in.txt", "out.txt", "out.txt.journal"], event


@pytest.mark.parametrize("seed", range(20))
def test_killed_at_a_random_moment(seed, work, tmp_path):
    """One worker or two, of which one or both are killed; then another number of workers goes on."""
    chance, log = random.Random(seed), tmp_path / "log"
    num_workers = 1 + seed % 2
    shares = [Share(index, num_workers) for index in range(num_workers)]
    running = [
        in_fork(lambda share=share: decode(work, share=share, resume=True, log=log, group=3, seconds=0.004))
        for share in shares
    ]
    time.sleep(chance.uniform(0.0, 0.08))
    for process in chance.sample(running, chance.randint(1, num_workers)):
        os.kill(process.pid, signal.SIGKILL)
    for process in running:
        process.join()
    assert not (work / "out.txt").exists() or (work / "out.txt").read_bytes() == expected(40)
    num_workers = chance.randint(1, 3)
    for index in chance.sample(range(num_workers), num_workers):
        assert run(work, None, share=Share(index, num_workers), resume=True, log=log, group=5) == 0
    merge(work / "out.txt.journal", work / "out.txt")
    assert (work / "out.txt").read_bytes() == expected(40)
    decoded = counts(log)
    assert sorted(decoded) == list(range(40)) and decoded.most_common(1)[0][1] <= 2
    assert sum(decoded.values()) <= 40 + 3 * 2


def test_killed_again_and_again(work, tmp_path):
    """Each run gets a little further."""
    chance, log = random.Random(0), tmp_path / "log"
    for seed in range(200):
        options = {"resume": True, "log": log, "group": 2, "seconds": 0.005, "seed": seed}
        process = in_fork(lambda options=options: decode(work, **options))
        process.join(chance.uniform(0.02, 0.08))
        if process.exitcode is not None:
            break
        os.kill(process.pid, signal.SIGKILL)
        process.join()
    assert process.exitcode == 0
    assert (work / "out.txt").read_bytes() == expected(40)
