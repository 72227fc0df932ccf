"""The state of torch's random number generators, to go back to it."""

from __future__ import annotations

from typing import List

import torch
from torch import Tensor


class RandomState:
    """The state of the generators that decoding on a device draws from."""

    def __init__(self, device: torch.device):
        self._device = device
        self._states = self._now()

    def _now(self) -> List[Tensor]:
        on_card = [torch.cuda.get_rng_state(self._device)] if self._device.type == "cuda" else []
        return [torch.get_rng_state(), *on_card]

    def restore(self) -> None:
        torch.set_rng_state(self._states[0])
        for state in self._states[1:]:
            torch.cuda.set_rng_state(state, self._device)

    def has_moved(self) -> bool:
        """Returns whether numbers were drawn since."""
        return not all(map(torch.equal, self._states, self._now()))
