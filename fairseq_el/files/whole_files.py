"""Files and directories that are either whole or not there.

They are written in a directory of :mod:`fairseq_el.files.staging` and renamed. Of several processes that write to one
name at once, each gives it something whole. A link stays a link: what it leads to is written or replaced.
"""

from __future__ import annotations

import errno
import itertools
import os
import re
from pathlib import Path
from typing import Any, Callable, Dict, Optional

from fairseq_el.errors import FairseqElError
from fairseq_el.files.manifest import refuse_unless_own, write_record
from fairseq_el.files.reading import FILE, kind_in
from fairseq_el.files.staging import REPLACED, workplace

_APPEARED = "{} was not there before, and another process has made it meanwhile. Nothing was replaced"
_STREAM = re.compile(r"/dev/(stdin|stdout|stderr|fd/\d+)|/proc/.*")


def kind_of(path: Path) -> Optional[str]:
    """What is there: a file, a directory, a device, ...; None if there is nothing. Links are followed."""
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
    """The path that a link leads to, and a path without links as it is."""
    return Path(os.path.realpath(path))


def write_whole(path: Path, write: Callable[[Path], object], replace: bool = False) -> None:
    """Has a file written elsewhere, and gives it its name when it is whole.

    Args:
        path: of the file. Its directory is made.
        write: writes the file to the path it is given, which has the same name.
        replace: whether a file of that name may be replaced; nothing else ever is.

    Raises:
        FairseqElError: there is something of that name now which must stay.
    """
    path = followed(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with workplace(path) as place:
        unfinished = place / path.name
        write(unfinished)
        if not replace:
            give_name(unfinished, path)
        elif kind_of(path) in (FILE, None):
            unfinished.replace(path)
        else:
            raise FairseqElError(f"{path} must be a file; it is {kind_of(path)}. Nothing was replaced")


def give_name(unfinished: Path, path: Path) -> None:
    """Renames a file, and replaces nothing.

    Raises:
        FairseqElError: there is something of that name.
    """
    try:
        os.link(unfinished, path)  # unlike a rename, it fails then
        return
    except FileExistsError:
        exists = True
    except OSError:  # a file system without hard links
        exists = os.path.lexists(path)
    if exists:
        raise FairseqElError(_APPEARED.format(path))
    unfinished.rename(path)


def write_whole_directory(
    path: Path,
    write: Callable[[Path], object],
    by: str,
    made_from: Optional[Dict[str, Any]] = None,
    replace: bool = False,
) -> None:
    """The same for a directory of files, which gets a record of them. Only one process makes it at a time.

    Args:
        write: fills the empty directory that it is given.
        by: what makes it, and ``made_from`` what from; see :mod:`fairseq_el.files.manifest`.
        replace: whether a directory that ``by`` has made may be replaced; nothing else ever is.

    Raises:
        FairseqElError: another process makes it, or there is something of that name now which must stay.
    """
    path = followed(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with workplace(path, alone=True) as place:
        unfinished = place / path.name
        unfinished.mkdir()
        write(unfinished)
        write_record(unfinished, by, made_from)
        for number in itertools.count():
            _move_away(path, place / f"{REPLACED}{number:03}", by, replace)
            try:
                unfinished.rename(path)
                return
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                    raise  # the old one goes back with the end of the workplace
                # Something has come to be there meanwhile: it is looked at in turn.


def _move_away(path: Path, target: Path, by: str, replace: bool) -> None:
    """Looks at what is there when nobody can add to it by this name any more. It goes back if it must stay."""
    try:
        path.rename(target)
    except FileNotFoundError:
        return
    if not replace and not (target.is_dir() and not any(target.iterdir())):
        raise FairseqElError(_APPEARED.format(path))
    try:
        refuse_unless_own(target, by)
    except FairseqElError as error:
        raise FairseqElError(str(error).replace(str(target), str(path), 1)) from None
