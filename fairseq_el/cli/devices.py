"""The option ``--device`` of commands that measure."""

from __future__ import annotations

from typing import Optional

import torch

from fairseq_el.cards.check import check_device, usable_device, why_no_card
from fairseq_el.errors import OptionError


def device_of(asked: Optional[str]) -> str:
    """The device to compute on: that of ``--device``, or a card if there is one.

    Raises:
        OptionError: there is no card.
        NoKernelsError: this torch was not built for the card.
    """
    if asked == "cuda" and not torch.cuda.is_available():
        why = why_no_card()
        raise OptionError(
            "--device cuda needs a card that this torch can use, and there is none; use --device cpu"
            + (why and f". {why}")
        )
    if asked == "cuda":
        check_device(torch.device(asked))
    return asked or usable_device()
