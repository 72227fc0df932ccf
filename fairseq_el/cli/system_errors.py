"""Errors of the operating system in plain words: what failed, where, and what to do about it."""

from __future__ import annotations

import errno
from typing import Optional

from fairseq_el.errors import shortened, summary_of
from fairseq_el.generation import is_out_of_memory

_ELSEWHERE = "write to another directory"
_ADVICE = {
    errno.ENOSPC: f"Free some space, or {_ELSEWHERE}",
    errno.EDQUOT: f"Free some space, or {_ELSEWHERE}",
    errno.EFBIG: f"Files may not be so large here: raise the limit (ulimit -f), or {_ELSEWHERE}",
    errno.EROFS: f"The file system can only be read: {_ELSEWHERE}",
    errno.EACCES: "You may not do this there: change the permissions, or name another file or directory",
    errno.EPERM: "You may not do this there: change the permissions, or name another file or directory",
    errno.ENOENT: "Make the directory it is to be in first, or name another one",
    errno.ENOTDIR: "A part of the path is a file, not a directory: name another one",
    errno.EISDIR: "It is a directory: name a file",
    errno.EEXIST: "Name another one",
    errno.ENAMETOOLONG: "The name is too long for this file system: use a shorter one",
    errno.ELOOP: "Its links lead in a circle: name the file itself",
    errno.EMFILE: "Too many files are open: raise the limit (ulimit -n)",
    errno.EIO: "The disk or its connection has failed: use another one",
}


def explain_system(error: BaseException) -> Optional[str]:
    """The message for a user about an exception of the operating system; None for other exceptions."""
    if isinstance(error, OSError):
        where = " to ".join(shortened(str(name)) for name in (error.filename, error.filename2) if name is not None)
        what = error.strerror or summary_of(error)
        advice = _ADVICE.get(error.errno or 0, "Name another file or directory")
        return f"{where}: {what}. {advice}" if where else f"{what}. {advice}"
    if is_out_of_memory(error):
        return f"there is not enough memory: {summary_of(error)}. Ask for less, or use a machine with more"
    return None
