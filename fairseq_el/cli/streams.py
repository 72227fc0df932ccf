"""Standard output and standard error: results, notes and errors, also where a stream is closed or its disk full."""

from __future__ import annotations

import contextlib
import os
import sys
from typing import Iterator

from fairseq_el.errors import FairseqElError


def write_line(text: str) -> None:
    """Writes a result to standard output.

    Raises:
        FairseqElError: the encoding of standard output lacks a character of the text.
        OSError: standard output can't be written to.
    """
    try:
        with _named():
            sys.stdout.write(text + "\n")
    except UnicodeEncodeError as error:
        raise FairseqElError(
            f"standard output is in {error.encoding}, which has no {error.object[error.start]!r}. Set "
            "PYTHONIOENCODING=utf-8, or have the result written to a file"
        ) from error


def write_bytes(content: bytes) -> None:
    """Writes to standard output at once, whatever its encoding is.

    Raises:
        OSError: standard output can't be written to.
    """
    with _named():
        sys.stdout.buffer.write(content)
        sys.stdout.buffer.flush()


def flush_output() -> None:
    """Writes what is still in memory, while an error can still be reported: a full disk, or a reader that is gone."""
    with _named():
        sys.stdout.flush()


@contextlib.contextmanager
def _named() -> Iterator[None]:
    """Names standard output in its errors."""
    try:
        yield
    except OSError as error:
        error.filename = "standard output"
        raise


def drop_unwritable_output() -> None:
    """Drops what can't be written. The interpreter would try again at its end, and print a traceback."""
    try:
        sys.stdout.flush()
    except OSError:
        with contextlib.suppress(OSError, ValueError), open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), sys.stdout.fileno())


def say_note(message: str) -> None:
    """Writes a note to standard error."""
    with contextlib.suppress(OSError):
        sys.stderr.write(f"fairseq-el: note: {message}\n")


def say_error(message: str, program: str) -> None:
    """Writes an error after what was printed before."""
    drop_unwritable_output()
    with contextlib.suppress(OSError):
        sys.stderr.write(f"{program}: error: {message}\n")
        sys.stderr.flush()


def open_closed_streams() -> None:
    """Opens streams that the caller has closed (``>&-``): what is written to them goes nowhere, as with ``print``."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115  (until the process ends)
