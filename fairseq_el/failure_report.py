"""One message instead of a traceback, where a program of fairseq runs an ``el_*`` task.

Exceptions end fairseq's programs. Those that tell the user what to change are printed without the traceback, all others
as Python prints them.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import TracebackType
from typing import Callable, Optional, Type

import torch

from fairseq_el.cards.check import explain_missing_kernel
from fairseq_el.checkpoint_loading import refused_classes
from fairseq_el.errors import FairseqElError, summary_of

Explain = Callable[[BaseException], Optional[str]]


def report_failures_without_traceback(explain_first: Explain = lambda error: None) -> None:
    """Installs the report as ``sys.excepthook``, in front of the hook that is there, in fairseq's own programs.

    Scripts of users keep their tracebacks. Calling it again changes nothing.

    Args:
        explain_first: asked before :func:`explain`; returns the message for an exception, or None.
    """
    if _is_fairseq_program() and not isinstance(sys.excepthook, _Report):
        sys.excepthook = _Report(sys.excepthook, explain_first)


def _is_fairseq_program() -> bool:
    """Says whether this is ``fairseq-generate``, ``python -m fairseq_cli.generate`` or another of its programs."""
    program = Path(sys.argv[0])
    return program.name.startswith("fairseq-") or program.parent.name == "fairseq_cli"


class _Report:
    def __init__(self, otherwise, explain_first: Explain):
        self.otherwise, self.explain_first = otherwise, explain_first

    def __call__(self, kind: Type[BaseException], error: BaseException, traceback: Optional[TracebackType]) -> None:
        message = self.explain_first(error) or explain(error)
        if message is None:
            self.otherwise(kind, error, traceback)
        else:
            sys.stderr.write(f"fairseq_el: error: {message}\n")


def explain(error: BaseException) -> Optional[str]:
    """Explains to a user the exception that ended the program; None to print it with its traceback."""
    if isinstance(error, FairseqElError):
        return _without_traceback(str(error))
    if isinstance(error, RuntimeError) and str(error).startswith("Mask Type should be defined"):
        return (
            "fairseq 0.12.2's fused encoder, which post-norm models such as BART use, does not work with torch "
            f"1.13 or later, and torch {torch.__version__} is installed. Decode with a task el_*, which does not use "
            "it, or install torch==1.12.1, or use Python 3.11 or later with fairseq-fixed."
        )
    if isinstance(error, RuntimeError) and str(error).startswith("Expected attn_mask->sizes()[0] == batch_size"):
        return (
            "fairseq 0.12.2's fused encoder layers do not work in its encoders of speech that are post-norm, such as "
            "those of convtransformer, also without fairseq_el. Use Python 3.11 or later with fairseq-fixed."
        )
    missing_kernel = explain_missing_kernel(error)
    if missing_kernel is not None:
        return missing_kernel
    path = _checkpoint_being_loaded(error.__traceback__)
    if path is None or isinstance(error, MemoryError) or not isinstance(error, Exception):
        return None
    return explain_loading(path, error)


def _without_traceback(said: str) -> str:
    """The message of an error, without the traceback that torch puts before it where a loader's process raised it."""
    if not said.startswith("Caught ") or "\nOriginal Traceback" not in said:
        return said
    own = re.split(r"^fairseq_el\.errors\.\w+: ", said, flags=re.M)
    return own[-1].strip()


def explain_loading(path: str, error: BaseException) -> str:
    """Explains to a user an exception that ``torch.load`` raised for a checkpoint."""
    refused = refused_classes(path, error)
    if refused:
        return (
            f"The checkpoint {path} was not loaded: it needs {', '.join(refused)}. Only classes that fairseq itself "
            "writes are built from a checkpoint, because a pickle can run any code. If you trust where the file comes "
            "from, save its weights again without these classes; otherwise delete it."
        )
    return (
        f"The checkpoint {path} could not be read: {summary_of(error).rstrip('.')}. It may "
        "be incomplete or not a checkpoint at all; compare its size and checksum with the original and copy it again."
    )


def _checkpoint_being_loaded(traceback: Optional[TracebackType]) -> Optional[str]:
    """Finds the checkpoint that fairseq was reading when an exception was raised; None if there is none."""
    while traceback is not None:
        frame = traceback.tb_frame
        if frame.f_code.co_name == "load_checkpoint_to_cpu":
            inner = traceback.tb_next
            if inner is not None and inner.tb_frame.f_globals.get("__name__") == "torch.serialization":
                return str(frame.f_locals.get("local_path"))
        traceback = traceback.tb_next
    return None
