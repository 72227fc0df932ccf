"""Directories for what is not finished yet, each of one process.

A workplace lies beside the name that its content will have, as ``.NAME.unfinished-TIME-BOOT-PID-RANDOM@HOST``. Its
process holds a lock on it until it has removed it. The system frees the locks of a process that was killed: whoever
works on the same name next removes what such a process has left. A lock says nothing about another machine, nor about
what began before this one was started last: workplaces from there stay.
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

REPLACED = "replaced-"  # begins the name of what was moved out of the way, and moves back if nothing took its place
PART = ".part"  # ends the name of half a file that the next process can go on with
_LONGEST = 100  # bytes of a name that are used as they are: with the rest, 255 must do
_OWNER = re.compile(r"\.unfinished-[0-9a-f]{16}-([0-9a-f]{8})-(\d+)-[0-9a-f]{8}@(.+)$")


@dataclass(frozen=True)
class Other:
    """Another process that works on the same name.

    Attributes:
        alive: whether that is known, because it holds its lock; or else it may be so.
    """

    place: Path
    pid: int
    host: str
    alive: bool


@contextlib.contextmanager
def workplace(path: Path, alone: bool = False) -> Iterator[Path]:
    """A new directory, beside the one thing that is made in it. It is gone afterwards, with what is left in it.

    Args:
        path: what is made; no link.
        alone: leave it to a process that makes the same already. Of two that begin at once, one goes on.

    Raises:
        FairseqElError: with ``alone``, there is such a process, or may be.
    """
    place, lock = _new_place(path)
    try:
        others = [other for other in clean_up(path) if other.place != place]
        if alone:
            refuse(path, [other for other in others if not other.alive or other.place.name < place.name])
        yield place
    finally:
        _remove(place, path)
        if lock is not None:
            os.close(lock)


def clean_up(path: Path) -> List[Other]:
    """Removes the workplaces that dead processes have left, and puts back what they moved out of the way.

    Returns:
        The processes that work there, or may do so.
    """
    others = []
    for place in sorted(path.parent.glob(glob.escape(_beginning(path)) + "*")):
        owner = _OWNER.search(place.name)
        if owner is None:  # not ours
            continue
        lock, alive = None, False
        try:
            lock = _lock(place) if owner[1] == _boot() else None
        except FileNotFoundError:
            continue  # its process has just removed it
        except BlockingIOError:
            alive = True
        except OSError:
            pass  # this file system has no locks
        if lock is None:
            others.append(Other(place, int(owner[2]), owner[3], alive))
        else:
            _remove(place, path)
            os.close(lock)
    return others


def refuse(path: Path, others: List[Other]) -> None:
    """Raises a :class:`FairseqElError` that names the first process that makes the same, if there is any."""
    for other in others:
        if other.alive:
            raise FairseqElError(
                f"process {other.pid} on {other.host} is making {path} already. Wait until it has ended"
            )
        raise FairseqElError(
            f"process {other.pid} on {other.host} may be making {path}: it began on another machine, or before this "
            f"one was started. Wait until it has ended, or remove {other.place} if it has"
        )


def _new_place(path: Path) -> Tuple[Path, Optional[int]]:
    """The directory, and its lock (None on a file system without locks)."""
    host = re.sub(r"[^\w.-]", "_", socket.gethostname())[:64]
    while True:
        owner = f"{time.time_ns():016x}-{_boot()}-{os.getpid()}-{uuid.uuid4().hex[:8]}@{host}"
        place = path.with_name(_beginning(path) + owner)
        try:
            place.mkdir()
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(path)) from error  # the name that the user knows
        lock = None
        try:
            lock = _lock(place)
        except (BlockingIOError, FileNotFoundError):
            continue  # before it was locked, another process has taken it for a dead one's
        except OSError:
            pass
        if place.exists():
            return place, lock
        if lock is not None:
            os.close(lock)


def _lock(place: Path) -> Optional[int]:
    """
    Returns:
        A file descriptor to close, or None where there are no locks.

    Raises:
        OSError: it is locked, gone, or on a file system without locks.
    """
    if fcntl is None:
        return None
    descriptor = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def _remove(place: Path, path: Path) -> None:
    """Removes a workplace that is this process's, or a dead one's."""
    for part in place.glob(f"*{PART}"):
        with contextlib.suppress(OSError):
            part.replace(path.with_name(part.name))
    replaced = sorted(place.glob(f"{REPLACED}*"))
    if replaced and not os.path.lexists(path):
        with contextlib.suppress(OSError):
            replaced[-1].rename(path)
    if os.path.lexists(path) or not replaced:  # or else it has the only copy
        shutil.rmtree(place, ignore_errors=True)


def _beginning(path: Path) -> str:
    name = os.fsencode(path.name)
    shown = path.name if len(name) <= _LONGEST else hashlib.sha256(name).hexdigest()
    return f".{shown}.unfinished-"


def _boot() -> str:
    """Eight digits that are the same in every process since this machine was started, also in containers."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text("ascii")[:8]
    except OSError:
        return hashlib.sha256(os.fsencode(socket.gethostname())).hexdigest()[:8]
