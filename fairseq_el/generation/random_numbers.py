"""The generators of random numbers that decoding draws from: put back, or one for each sentence."""

from __future__ import annotations

from contextlib import contextmanager
from typing import Callable, Iterator, List, TypeVar

import numpy as np
import torch
from torch import Tensor

from fairseq_el.generation.hypotheses import Kept

Found = TypeVar("Found")


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

    @contextmanager
    def restored(self) -> Iterator[None]:
        """Puts it back at the end of a block."""
        try:
            yield
        finally:
            self.restore()

    def has_moved(self) -> bool:
        """Returns whether numbers were drawn since."""
        return not all(map(torch.equal, self._states, self._now()))


class SentenceRandom:
    """A generator of random numbers for each sentence of a batch, in the place of torch's one for all.

    Every sentence draws what it would draw in a batch of its own after ``torch.manual_seed(sentence_seed(...))``.
    """

    def __init__(self, seed: int, numbers: List[int], device: torch.device):
        """``numbers``: of the sentences in the data."""
        seeds = [sentence_seed(seed, number) for number in numbers]
        self._states = [torch.Generator(device).manual_seed(each).get_state() for each in seeds]
        self._device = device

    def for_each(self, draw: Callable[[int], Found]) -> List[Found]:
        """``draw(i)`` for each sentence, with torch drawing from that sentence's generator."""
        found = []
        with RandomState(self._device).restored():
            for i, state in enumerate(self._states):
                _set_state(self._device, state)
                found.append(draw(i))
                self._states[i] = _state(self._device)
        return found

    def keep(self, kept: Kept) -> None:
        """Drops all other sentences."""
        self._states = [self._states[i] for i in kept.places]


def seed_generators(device: torch.device, seed: int) -> None:
    """Does what ``torch.manual_seed`` does for the generators that decoding on a device draws from.

    ``torch.manual_seed`` notes a call for every other kind of device, with a stack trace of it: 2 ms for each sentence.
    """
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(seed)


def sentence_seed(seed: int, number: int) -> int:
    """The seed of a sentence, below ``2**32``: torch uses no more bits of one on a CPU.

    Args:
        seed: of the whole job, at least 0.
        number: of the sentence in the data.
    """
    return int(np.random.SeedSequence([seed, number]).generate_state(1)[0])


def _state(device: torch.device) -> Tensor:
    return torch.cuda.get_rng_state(device) if device.type == "cuda" else torch.get_rng_state()


def _set_state(device: torch.device, state: Tensor) -> None:
    if device.type == "cuda":
        torch.cuda.set_rng_state(state, device)
    else:
        torch.set_rng_state(state)
