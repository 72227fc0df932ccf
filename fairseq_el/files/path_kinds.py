"""Kinds of things that a path can lead to: a file, a directory, a FIFO, a device, ..."""

from __future__ import annotations

import errno
import os
import re
import stat
from pathlib import Path
from typing import Optional

FILE, DIRECTORY, FIFO = "a file", "a directory", "a FIFO"
_KINDS = {
    stat.S_IFREG: FILE,
    stat.S_IFDIR: DIRECTORY,
    stat.S_IFIFO: FIFO,
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}
_STREAM = re.compile(r"/dev/(stdin|stdout|stderr|fd/\d+)|/proc/.*")


def kind_in(mode: int) -> str:
    """Names the kind that ``st_mode`` of ``os.stat`` has."""
    return _KINDS.get(stat.S_IFMT(mode), "of an unknown kind")


def kind_of(path: Path) -> Optional[str]:
    """Names the kind of what a path leads to; None if there is nothing. Links are followed."""
    if _STREAM.fullmatch(os.path.abspath(path)):
        return "a stream of a process"
    try:
        return kind_in(os.stat(path).st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        if error.errno == errno.ELOOP:
            return "a link that leads to itself"
        raise


def followed(path: Path) -> Path:
    """The path that a link leads to; a path without links as it is."""
    return Path(os.path.realpath(path))
