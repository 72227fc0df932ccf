"""The place of a process among those that a launcher has started on the same machine: its card, its share of memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Mapping, Optional

import torch

from fairseq_el.planning import free_memory, process_memory

# torchrun's and SLURM's names for the rank of a process on its machine, and the number of processes there.
_RANKS = ("LOCAL_RANK", "SLURM_LOCALID")
_SIZES = ("LOCAL_WORLD_SIZE", "SLURM_NTASKS_PER_NODE")


@dataclass(frozen=True)
class Place:
    """The place of a process.

    Attributes:
        rank: from 0, among the processes of this machine.
        of: their number.
    """

    rank: int = 0
    of: int = 1

    def take_card(self) -> None:
        """Makes the card of this process the one that models are loaded to, where it sees several."""
        if self.of > 1 and torch.cuda.is_available():
            torch.cuda.set_device(self.rank % torch.cuda.device_count())

    def memory(self, on_card: bool) -> Optional[int]:
        """Bytes of main memory that this process may use; None for all that is free, as of a card of its own."""
        return None if on_card or self.of == 1 else process_memory("cpu") + free_memory("cpu") // self.of


def place_of(environment: Mapping[str, str]) -> Place:
    """The place that a launcher's variables name; a process by itself without them.

    Args:
        environment: ``os.environ``.
    """
    ranks = [environment[name] for name in _RANKS if environment.get(name, "").isdecimal()]
    sizes = [environment[name] for name in _SIZES if environment.get(name, "").isdecimal()]
    rank = int(ranks[0]) if ranks else 0
    return Place(rank, max(int(sizes[0]) if sizes else 1, rank + 1))
