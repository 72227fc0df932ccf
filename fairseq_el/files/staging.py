"""Staging directories: each holds what one process has not finished yet.

A staging directory lies beside the path that its content will get, as ``.NAME.unfinished-TIME-BOOT-PID-RANDOM@HOST``.
Its process holds a lock on it, and removes it at the end. The system frees the locks of a process that was killed. The
next process that makes the same then removes what is left. A lock says nothing about another machine, nor about
processes from before this machine was started: their staging directories stay.
"""

from __future__ import annotations

import contextlib
import glob
import hashlib
import os
import re
import shutil
import socket
import time
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Iterator, List, Optional, Tuple

from fairseq_el.errors import FairseqElError

fcntl: Any
try:
    import fcntl
except ImportError:  # Windows; without locks, nothing that another process has left is ever removed
    fcntl = None

REPLACED = "replaced-"  # begins the name of what was moved out of the way; it moves back if nothing took its place
PART = ".part"  # ends the name of a half-written file, which the next process goes on with
_PATIENCE = 1.0  # seconds; what a killed process had started dies a moment later, and holds its lock until then
_LONGEST = 100  # bytes of a name that are kept as they are; a file system takes 255 with the rest of the name
_OWNER = re.compile(r"\.unfinished-[0-9a-f]{16}-([0-9a-f]{8})-(\d+)-[0-9a-f]{8}@(.+)$")


@dataclass(frozen=True)
class OtherProcess:
    """Another process that makes the same file or directory.

    Attributes:
        alive: whether it holds its lock. If not, it may be alive all the same: on another machine, for example.
    """

    staging: Path
    pid: int
    host: str
    alive: bool


def followed(path: Path) -> Path:
    """The path that a link leads to; a path without links as it is."""
    return Path(os.path.realpath(path))


@contextlib.contextmanager
def staging_directory(path: Path, alone: bool = False) -> Iterator[Path]:
    """Makes a staging directory, and removes it afterwards with all that is left in it.

    Args:
        path: the one file or directory that is made in it; not a link.
        alone: give up if another process is making the same path already, and still is a second later. Of two that
            begin at once, one goes on.

    Raises:
        FairseqElError: with ``alone``, there is such a process, or may be.
    """
    staging, lock = _new_staging(path)
    try:
        if alone:
            _refuse_others(path, staging)
        else:
            remove_abandoned(path)
        yield staging
    finally:
        _remove(staging, path)
        if lock is not None:
            os.close(lock)


def refuse_if_being_made(path: Path) -> None:
    """Puts back what a process that was killed has moved away, and refuses a path that another process works on.

    Raises:
        FairseqElError: another process is making it, or may be.
    """
    _refuse_others(path)


def remove_abandoned(path: Path) -> List[OtherProcess]:
    """Removes the staging directories that dead processes have left, and puts back what they moved out of the way.

    Returns:
        Processes that are making the same, or may be.
    """
    others = []
    for staging in sorted(path.parent.glob(glob.escape(_name_prefix(path)) + "*")):
        owner = _OWNER.search(staging.name)
        if owner is None:  # not ours
            continue
        lock, alive = None, False
        try:
            lock = _lock(staging) if owner[1] == _boot() else None
        except FileNotFoundError:
            continue  # its process has just removed it
        except BlockingIOError:
            alive = True
        except OSError:
            pass  # this file system has no locks
        if lock is None:
            others.append(OtherProcess(staging, int(owner[2]), owner[3], alive))
        else:
            _remove(staging, path)
            os.close(lock)
    return others


def _refuse_others(path: Path, own: Optional[Path] = None) -> None:
    """Refuses a path that another process works on.

    Args:
        own: staging directory of this process; those that were made later don't count.
    """
    deadline = time.monotonic() + _PATIENCE
    while True:
        others = [other for other in remove_abandoned(followed(path)) if other.staging != own]
        others = [other for other in others if not other.alive or own is None or other.staging.name < own.name]
        if not any(other.alive for other in others) or time.monotonic() > deadline:
            break
        time.sleep(_PATIENCE / 20)
    for other in others:
        if other.alive:
            raise FairseqElError(
                f"process {other.pid} on {other.host} is making {path} already. Wait until it has ended"
            )
        raise FairseqElError(
            f"process {other.pid} on {other.host} may be making {path}: it began on another machine, or before this "
            f"one was started. Wait until it has ended, or remove {other.staging} if it has"
        )


def _new_staging(path: Path) -> Tuple[Path, Optional[int]]:
    """Makes a staging directory and locks it. The lock is None on a file system without locks."""
    host = re.sub(r"[^\w.-]", "_", socket.gethostname())[:64]
    while True:
        owner = f"{time.time_ns():016x}-{_boot()}-{os.getpid()}-{uuid.uuid4().hex[:8]}@{host}"
        staging = path.with_name(_name_prefix(path) + owner)
        try:
            staging.mkdir()
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(path)) from error  # the name that the user knows
        lock = None
        try:
            lock = _lock(staging)
        except (BlockingIOError, FileNotFoundError):
            continue  # before it was locked, another process has taken it for a dead one's
        except OSError:
            pass
        if staging.exists():
            return staging, lock
        if lock is not None:
            os.close(lock)


def _lock(staging: Path) -> Optional[int]:
    """Locks a staging directory.

    Returns:
        A file descriptor to close, or None where there are no locks.

    Raises:
        OSError: it is locked, gone, or on a file system without locks.
    """
    if fcntl is None:
        return None
    descriptor = os.open(staging, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def _remove(staging: Path, path: Path) -> None:
    """Removes a staging directory of this process, or of a dead one."""
    for part in staging.glob(f"*{PART}"):
        with contextlib.suppress(OSError):
            part.replace(path.with_name(part.name))
    replaced = sorted(staging.glob(f"{REPLACED}*"))
    if replaced and not os.path.lexists(path):
        with contextlib.suppress(OSError):
            replaced[-1].rename(path)
    if os.path.lexists(path) or not replaced:  # or else it has the only copy
        shutil.rmtree(staging, ignore_errors=True)


def _name_prefix(path: Path) -> str:
    name = os.fsencode(path.name)
    shown = path.name if len(name) <= _LONGEST else hashlib.sha256(name).hexdigest()
    return f".{shown}.unfinished-"


def _boot() -> str:
    """Returns eight digits that stay the same until this machine is started again, also in containers."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text("ascii")[:8]
    except OSError:
        return hashlib.sha256(os.fsencode(socket.gethostname())).hexdigest()[:8]
