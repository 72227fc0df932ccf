"""Files that one process creates and appends to, and no other ever writes: no locks are needed, on NFS either."""

from __future__ import annotations

import contextlib
import itertools
import os
import re
from pathlib import Path
from typing import List, Tuple

from fairseq_el.jobs.disk import sync, sync_directory

_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | getattr(os, "O_BINARY", 0)


class AppendedFile:
    """A new file in a directory, under the first free number.

    Args:
        name: with ``{}`` in the place of the number, such as ``part-0-{}.jsonl``.

    Attributes:
        number: from 1.
        path: of the file.
        size: in bytes.
    """

    def __init__(self, directory: Path, name: str):
        for number in itertools.count(newest_number(directory, name) + 1):
            self.number, self.path, self.size = number, directory / name.format(number), 0
            with contextlib.suppress(FileExistsError):  # another process was faster
                self._descriptor = os.open(self.path, _FLAGS, 0o666)
                break
        self._failed = False
        sync_directory(directory)

    def append(self, content: bytes) -> int:
        """Appends bytes by one call of the system, or more if it takes only some of them.

        Returns:
            the place at which they begin.

        Raises:
            OSError: the disk is full, for example. Nothing is ever appended behind half a line.
        """
        if self._failed:
            raise OSError(f"{self.path} could not be written before")
        begin, left = self.size, memoryview(content)
        try:
            while left:
                written = os.write(self._descriptor, left)
                self.size += written
                left = left[written:]
        except OSError as error:
            self._failed = True
            error.filename = str(self.path)
            raise
        return begin

    def sync(self) -> None:
        """Waits until the disk has what was appended."""
        try:
            sync(self._descriptor)
        except OSError as error:
            self._failed = True
            error.filename = str(self.path)
            raise

    def close(self) -> None:
        """Closes the file. Once more does nothing."""
        if self._descriptor >= 0:
            descriptor, self._descriptor = self._descriptor, -1
            os.close(descriptor)


def newest_number(directory: Path, name: str) -> int:
    """The highest number of such files; 0 if there are none."""
    return max((number for number, _ in numbered(directory, name)), default=0)


def numbered(directory: Path, name: str) -> List[Tuple[int, Path]]:
    """The files of a name, by their numbers."""
    pattern = re.compile(r"([1-9]\d*)".join(re.escape(part) for part in name.split("{}")))
    matches = ((pattern.fullmatch(path.name), path) for path in directory.iterdir())
    return sorted((int(match[1]), path) for match, path in matches if match is not None)
