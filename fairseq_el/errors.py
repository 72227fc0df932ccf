"""Errors that this package raises. Every message says what is wrong, the rule, the actual value, and what to do."""

from __future__ import annotations

import errno
import re
from typing import Sequence

_LONGEST = 300  # characters of a library's message
# torch advises to load files in a way in which they can run any code.
_DANGEROUS = re.compile(r"weights_only|safe_globals|allow ?list|trusted source|arbitrary code")


# CUDA's, ROCm's and Apple's allocators; CPU allocators on Linux and Windows; C++; cuBLAS, cuDNN and their like; oneDNN,
# which says no more than that where memory for its code or scratchpad was refused.
_OUT_OF_MEMORY = re.compile(
    r"out of memory|can't allocate memory|cannot allocate memory|not enough memory|bad_alloc|ALLOC(ATION)?_FAILED"
    r"|could not (create|execute) a primitive$|could not create a memory( object)?$",
    re.IGNORECASE | re.MULTILINE,
)


class FairseqElError(Exception):
    """Base class. On the command line it is reported as one message, without a traceback.

    Attributes:
        exit_status: of the command.
    """

    exit_status = 1


class UnsupportedModelError(FairseqElError):
    """EL-attention can't decode this model exactly. The message lists every reason, not only the first."""

    def __init__(self, model_name: str, reasons: Sequence[str], task: str = "translation"):
        self.reasons = list(reasons)
        listed = "\n".join(f"  - {reason}" for reason in self.reasons)
        super().__init__(
            f"{model_name} can't be decoded with EL-attention, which must give the same output as stock attention:\n"
            f"{listed}\n"
            f"Decode it with the stock task (for example --task {task} instead of --task el_{task})."
        )


class OptionError(FairseqElError):
    """An option of the command line has a value that is not allowed."""

    exit_status = 2


def as_message(problems: Sequence[str]) -> str:
    """Puts all problems of a command line, at least one, into one message."""
    if len(problems) == 1:
        return problems[0]
    return f"{len(problems)} options can't be used:" + "".join(f"\n  - {each}" for each in problems)


def raise_problems(problems: Sequence[str]) -> None:
    """Raises an error if there are problems.

    Raises:
        OptionError: there are problems with the command line. It names all of them.
    """
    if problems:
        raise OptionError(as_message(problems))


class StoppedError(FairseqElError):
    """A signal has asked a job to stop. The message has the command that goes on."""

    exit_status = 3


class LengthLimitsError(OptionError, AssertionError):
    """The shortest output must be longer than the longest. fairseq raises AssertionError there."""


class ConstraintsError(OptionError, NotImplementedError):
    """Constraints are given to a search that has no place for them. fairseq raises NotImplementedError there."""


class NoHypothesisError(FairseqElError, AssertionError):
    """Sentences have no hypothesis that could end; the message says why. fairseq raises AssertionError there."""


class OutOfMemoryError(FairseqElError, RuntimeError):
    """A single sentence does not fit into memory. fairseq's trainer catches RuntimeError to try a batch again."""


class NoKernelsError(FairseqElError):
    """This torch was not built for the card that decodes. The message names one that is."""


class CheckpointMismatchError(FairseqElError):
    """A checkpoint and the data directory do not belong together."""


def summary_of(error: BaseException) -> str:
    """Puts a library's exception into one line, with its class, but without advice to load a file unsafely."""
    line = str(error).strip().partition("\n")[0]
    inner = re.search(r"WeightsUnpickler error: ([^\n]*)", str(error))  # torch's reason comes after its advice
    sentences = re.split(r"(?<=[.!?]) +", inner.group(1) if inner else line)
    said = " ".join(" ".join(sentence for sentence in sentences if not _DANGEROUS.search(sentence)).split())
    return shortened(f"{type(error).__name__}: {said}" if said else type(error).__name__)


def shortened(text: str) -> str:
    """Cuts the middle out of a text that is too long for a message."""
    half = _LONGEST // 2
    return text if len(text) <= _LONGEST else f"{text[:half]} ... {text[-half:]} ({len(text):,} characters)"


def is_out_of_memory(error: BaseException) -> bool:
    """Returns whether an allocation failed, on any device. An error of this package is not one."""
    if isinstance(error, FairseqElError):
        return False
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and _OUT_OF_MEMORY.search(str(error)) is not None
    )
