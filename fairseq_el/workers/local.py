"""Workers of a job on this machine, started by torch's elastic agent, the one behind ``torchrun``.

The agent gives each worker a rank and stops all of them when one dies. What is started again is decided here: a worker
that a signal has killed, not one that has given up with a message.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import sys
import tempfile
import uuid
from typing import Any, Dict, Iterator, List, Mapping, Sequence, Tuple

import torch
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.run import parse_args, run

from fairseq_el.errors import FairseqElError, OptionError
from fairseq_el.jobs import INTERRUPTED, LAUNCHER

logger = logging.getLogger(__name__)


class WorkerError(FairseqElError):
    """A worker has given up. Its own message is on standard error.

    Attributes:
        exit_status: of the worker.
    """

    def __init__(self, worker: int, exit_status: int):
        self.exit_status = exit_status
        super().__init__(f"worker {worker} has stopped with exit status {exit_status}; its message is above")


class SignalledError(FairseqElError):
    """A signal has come for the launcher, and all workers have stopped.

    Attributes:
        name: of the signal, such as ``SIGTERM``.
    """

    def __init__(self, name: str):
        self.name = name
        super().__init__(f"stopped by {name}")


def refuse_too_many_workers(num_workers: int, on_card: bool) -> None:
    """Refuses more workers than there are cards.

    Raises:
        OptionError: there are too few.
    """
    cards = torch.cuda.device_count() if on_card else num_workers
    if num_workers > cards:
        raise OptionError(
            f"--workers must be at most the number of cards, {cards}: each takes one; it is {num_workers}. Add --cpu "
            "to decode on cores"
        )


def run_workers(command: Sequence[str], num_workers: int, restarts: int) -> None:
    """Runs a program of Python several times at once, to the end of all.

    Args:
        command: the module and its arguments. Its environment has RANK, WORLD_SIZE and LOCAL_RANK.
        restarts: so often all are started again after one was killed.

    Raises:
        WorkerError: a worker has stopped with an error, or was killed too often.
        SignalledError: SIGTERM or SIGUSR1 has come. The workers have got SIGTERM, and have ended.
    """
    for name in ("torch.distributed.elastic", "torch.distributed.run", "torch.distributed.launcher"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # a worker's own message says more
    with _agent_signals(), tempfile.TemporaryDirectory(prefix="fairseq-el-workers-") as logs:
        os.environ.update(_environment(num_workers, os.environ))
        for attempt in range(restarts + 1):
            failed = _run_once(command, num_workers, logs)
            if not failed:
                return
            worker, status = _cause(failed)
            if status >= 0 or attempt == restarts:
                raise WorkerError(worker, 128 - status if status < 0 else status)
            logger.warning("worker %d was killed by %s; all are started again", worker, signal.Signals(-status).name)


def _cause(failed: Mapping[int, int]) -> Tuple[int, int]:
    """The worker that has made all stop, and its exit status: a message first, then a signal that has killed it.

    The agent asks the others to stop; they say so by their status, as does a worker that SLURM has asked.
    """
    return min(failed.items(), key=lambda item: (item[1] == INTERRUPTED, item[1] < 0))


def _environment(num_workers: int, given: Mapping[str, str]) -> Dict[str, str]:
    """Variables for workers: their part of the cores, and the process by whose end they end."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    share = given.get("OMP_NUM_THREADS") or str(max(cores // num_workers, 1))
    return {"OMP_NUM_THREADS": share, LAUNCHER: str(os.getpid())}


def _run_once(command: Sequence[str], num_workers: int, logs: str) -> Dict[int, int]:
    """Runs all workers. Returns the exit statuses of those that have failed, by their ranks."""
    agent: List[Any] = ["--nnodes", 1, "--nproc_per_node", num_workers, "--max_restarts", 0, "--monitor_interval", 0.2]
    agent += ["--rdzv_backend", "c10d", "--rdzv_endpoint", f"localhost:{_free_port()}", "--rdzv_id", uuid.uuid4().hex]
    agent += ["--log_dir", logs, "--no_python", sys.executable, "-m", *command]
    try:
        run(parse_args([str(each) for each in agent]))
    except ChildFailedError as error:
        return {rank: failure.exitcode for rank, failure in error.failures.items()}
    except SignalException as error:
        raise SignalledError(signal.Signals(error.sigval).name) from None
    return {}


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("localhost", 0))
        return int(found.getsockname()[1])


@contextlib.contextmanager
def _agent_signals() -> Iterator[None]:
    """Within this context, SIGUSR1 does what SIGTERM does: the agent knows only that. It leaves handlers behind."""
    before = {number: signal.getsignal(number) for number in (signal.SIGUSR1, signal.SIGTERM, signal.SIGINT)}
    signal.signal(signal.SIGUSR1, lambda *unused: os.kill(os.getpid(), signal.SIGTERM))
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
