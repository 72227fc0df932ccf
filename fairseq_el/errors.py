"""The errors this package raises. Every message says what is wrong, the rule, the actual value, and what to do."""

from __future__ import annotations

from typing import Sequence


class FairseqElError(Exception):
    """Base class. On the command line it is reported as one message, without a traceback."""


class UnsupportedModelError(FairseqElError):
    """A model that EL-attention can't decode exactly. Lists every reason, not only the first."""

    def __init__(self, model_name: str, reasons: Sequence[str], decoder_only: bool = False):
        self.reasons = list(reasons)
        task = "language_modeling" if decoder_only else "translation"
        listed = "\n".join(f"  - {reason}" for reason in self.reasons)
        super().__init__(
            f"{model_name} can't be decoded with EL-attention, which must give the same output as stock attention:\n"
            f"{listed}\n"
            f"Decode it with the stock task (for example --task {task} instead of --task el_{task})."
        )


class OptionError(FairseqElError):
    """An option of the command line has a value that it can't have."""


class OutOfMemoryError(FairseqElError):
    """Decoding ran out of memory. Names a batch size that fits."""


class NoKernelsError(FairseqElError):
    """This torch was not built for the card that decodes. Names one that is."""


class CheckpointMismatchError(FairseqElError):
    """A checkpoint and the data directory do not belong together."""
