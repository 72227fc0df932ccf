"""The file that results are for: written under another name, which becomes its own when it is whole."""

from __future__ import annotations

import contextlib
import errno
import filecmp
import shutil
from pathlib import Path

from fairseq_el.errors import FairseqElError
from fairseq_el.files import FILE, followed, give_name, kind_of, write_whole
from fairseq_el.jobs.appended_file import AppendedFile, numbered
from fairseq_el.jobs.disk import sync, sync_directory

_NAME = "output-{}.partial"


class OutputFile:
    """An unfinished output in the directory of a journal. Those that killed attempts have left are removed.

    Args:
        directory: where it lies until it is whole.
        path: its name then. A link is followed.
        replace: whether a file that is there may be replaced.
    """

    def __init__(self, directory: Path, path: Path, replace: bool):
        self._path, self._replace = path, replace
        self._file = AppendedFile(directory, _NAME)
        for number, other in numbered(directory, _NAME):
            if number != self._file.number:
                remove_if_there(other)

    def write(self, content: bytes) -> None:
        """Appends to it.

        Raises:
            OSError: it can't be written.
        """
        self._file.append(content)

    def publish(self) -> None:
        """Gives the output its name.

        Raises:
            FileNotFoundError: another process, which does the same job, has removed the unfinished file.
            FairseqElError: another file has the name.
        """
        self._file.sync()
        self._file.close()
        publish(self._file.path, self._path, self._replace)

    def close(self) -> None:
        """Closes the file. If it was not published, it stays for the user to look at."""
        self._file.close()


def publish(unfinished: Path, path: Path, replace: bool) -> None:
    """Renames a whole file. If a file with the same bytes has the name already, that one stays.

    Raises:
        FairseqElError: another file has the name, and may not be replaced.
    """
    path = followed(path)
    if not replace and kind_of(path) == FILE:
        if not filecmp.cmp(unfinished, path, shallow=False):
            raise FairseqElError(
                f"{path} exists already, and is not what this job writes. Nothing was replaced: choose another name, "
                "or add --force"
            )
    else:
        _rename(unfinished, path, replace)
        sync_directory(path.parent)
    remove_if_there(unfinished)


def remove_if_there(path: Path) -> None:
    """Removes a file that another process may remove too."""
    with contextlib.suppress(FileNotFoundError):
        path.unlink()


def _rename(unfinished: Path, path: Path, replace: bool) -> None:
    try:
        if replace and kind_of(path) in (FILE, None):
            unfinished.replace(path)
        else:
            give_name(unfinished, path)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        write_whole(path, lambda copy: _copy_to_disk(unfinished, copy), replace)  # on another file system


def _copy_to_disk(source: Path, target: Path) -> None:
    with source.open("rb") as reading, target.open("wb") as writing:
        shutil.copyfileobj(reading, writing)
        writing.flush()
        sync(writing.fileno())
