"""When the hypotheses of each sentence may end, and when they must."""

from __future__ import annotations

from typing import List, Optional

import torch
from torch import Tensor


class Limits:
    """Of the ``B`` sentences of a batch. A step appends one word; the first step is 0.

    Attributes:
        prompts: forced words of each sentence, which is the step that appends its first own word.
        last: the step that appends the last word of each sentence.
    """

    def __init__(self, prompts: List[int], may_end: List[int], last: List[int], device: torch.device):
        """``may_end``: the first step in which each sentence may end."""
        self.prompts, self.may_end, self.last = prompts, may_end, last
        self._on_device = torch.tensor([prompts, may_end, last], device=device)  # (3, B)

    def prompt_lengths(self) -> Tensor:
        """*Shape:* ``(B, 1)``."""
        return self._on_device[0].unsqueeze(1)

    def last_steps(self) -> Tensor:
        """*Shape:* ``(B, 1)``."""
        return self._on_device[2].unsqueeze(1)

    def too_early(self, step: int, part: slice, beam_size: int) -> Optional[Tensor]:
        """Which rows have left their prompt and may not end yet; None if no row. *Shape:* ``(rows, 1)``."""
        if step >= max(self.may_end[part]):
            return None
        prompts, may_end, _ = self._on_device[:, part]
        return _rows((prompts <= step) & (may_end > step), beam_size)

    def ending(self, step: int, part: slice, beam_size: int) -> Optional[Tensor]:
        """Which rows get their last word; None if no row. *Shape:* ``(rows, 1)``."""
        if step < min(self.last[part]):
            return None
        return _rows(self._on_device[2, part] <= step, beam_size)

    def first_own(self, step: int, part: slice, beam_size: int) -> Optional[Tensor]:
        """Which rows get the first word after their prompt; None if no row. *Shape:* ``(rows, 1)``."""
        if step not in self.prompts[part]:
            return None
        return _rows(self._on_device[0, part] == step, beam_size)

    def keep(self, sentences: List[int], on_device: Tensor) -> None:
        """Drops all other sentences."""
        self.prompts, self.may_end, self.last = (
            [values[i] for i in sentences] for values in (self.prompts, self.may_end, self.last)
        )
        self._on_device = self._on_device.index_select(1, on_device)


def _rows(of_sentences: Tensor, beam_size: int) -> Tensor:
    """``(B)`` to ``(B * b, 1)``."""
    return of_sentences.repeat_interleave(beam_size).unsqueeze(1)
