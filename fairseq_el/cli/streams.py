"""What commands write to standard output, and errors to standard error."""

from __future__ import annotations

import contextlib
import os
import sys
from typing import Iterator

from fairseq_el.errors import FairseqElError


def write_line(text: str) -> None:
    """
    Raises:
        FairseqElError: standard output has an encoding without some character of the text.
        OSError: it can't be written to.
    """
    try:
        with _named():
            sys.stdout.write(text + "\n")
    except UnicodeEncodeError as error:
        raise FairseqElError(
            f"standard output is in {error.encoding}, which has no {error.object[error.start]!r}. Set "
            "PYTHONIOENCODING=utf-8, or have the result written to a file"
        ) from error


def flush_output() -> None:
    """Writes what is still in memory, while it can be told that the disk is full or that nobody reads it."""
    with _named():
        sys.stdout.flush()


@contextlib.contextmanager
def _named() -> Iterator[None]:
    """Has errors of a stream say which one it is."""
    try:
        yield
    except OSError as error:
        error.filename = "standard output"
        raise


def drop_unwritable_output() -> None:
    """Throws away what can't be written, which the interpreter would try again at its end, with a traceback."""
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
    """Has what is written to a stream that the caller has closed (``>&-``) go nowhere, as ``print`` does."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115  (until the process ends)
