"""Files and directories that are either whole or not there.

They are written in a staging directory and then renamed. Of several processes that write to one path at once, each
gives it something whole. A link stays a link: what it leads to is written or replaced.
"""

from __future__ import annotations

import errno
import itertools
import os
from pathlib import Path
from typing import Any, Callable, Dict, Optional

from fairseq_el.errors import FairseqElError
from fairseq_el.files.manifest import refuse_unless_own, write_manifest
from fairseq_el.files.reading import FILE, kind_of
from fairseq_el.files.staging import REPLACED, followed, staging_directory

_APPEARED = "{} was not there before, and another process has made it meanwhile. Nothing was replaced"


def write_whole(path: Path, write: Callable[[Path], object], replace: bool = False) -> None:
    """Has a file written in a staging directory, and renames it when it is whole.

    Args:
        path: of the file. The directory that it lies in is made.
        write: writes the file to the path that it is given, which ends with the same name.
        replace: whether a file may be replaced; nothing else ever is.

    Raises:
        FairseqElError: something that must stay has appeared at the path.
    """
    path = followed(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with staging_directory(path) as staging:
        unfinished = staging / path.name
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
        FairseqElError: something is there.
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
    inputs: Optional[Dict[str, Any]] = None,
    replace: bool = False,
) -> None:
    """Has a directory filled under another name, adds its manifest, and renames it when it is whole.

    Only one process makes it at a time.

    Args:
        write: fills the empty directory that it is given.
        by: the command that makes it.
        inputs: what it is made from; see :func:`~fairseq_el.files.manifest.write_manifest`.
        replace: whether a directory that ``by`` has made may be replaced; nothing else ever is.

    Raises:
        FairseqElError: another process makes it, or something that must stay has appeared at the path.
    """
    path = followed(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with staging_directory(path, alone=True) as staging:
        if not replace and os.path.lexists(path) and not _is_empty(path):  # another process has made it just now
            raise FairseqElError(_APPEARED.format(path))
        unfinished = staging / path.name
        unfinished.mkdir()
        write(unfinished)
        write_manifest(unfinished, by, inputs)
        for number in itertools.count():
            _move_away(path, staging / f"{REPLACED}{number:03}", by, replace)
            try:
                unfinished.rename(path)
                return
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                    raise  # the old one goes back with the end of the staging directory
                # Something has appeared at the path meanwhile: the next round looks at it.


def _is_empty(directory: Path) -> bool:
    return directory.is_dir() and not any(directory.iterdir())


def _move_away(path: Path, target: Path, by: str, replace: bool) -> None:
    """Moves away what is at the path and checks it there, so that nobody can add to it meanwhile.

    It goes back if it must stay: see :func:`~fairseq_el.files.staging.staging_directory`.
    """
    try:
        path.rename(target)
    except FileNotFoundError:
        return
    if not replace and not _is_empty(target):
        raise FairseqElError(_APPEARED.format(path))
    try:
        refuse_unless_own(target, by)
    except FairseqElError as error:
        raise FairseqElError(str(error).replace(str(target), str(path), 1)) from None
