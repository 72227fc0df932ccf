"""The memory of the machine that decodes."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Tuple

import torch

from fairseq_el.errors import OptionError


def free_memory(device: str) -> int:
    """Bytes that nobody uses now: of the current card (``"cuda"``), of another (``"cuda:1"``), or of RAM (``"cpu"``).

    On a card this counts what torch's pool keeps and no tensor uses: to the card it is taken, to torch it is free.

    Raises:
        OptionError: there is no such card, or the system does not say.
    """
    if device.startswith("cuda"):
        if not torch.cuda.is_available():
            raise OptionError("--device cuda needs --memory, such as --memory 16GiB: torch sees no card here to ask")
        card = torch.device(device).index
        in_pool = torch.cuda.memory_reserved(card) - torch.cuda.memory_allocated(card)
        return int(torch.cuda.mem_get_info(card)[0] + in_pool)
    try:
        available = re.search(r"^MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text(), re.M)
    except OSError:
        available = None
    if available is None:
        raise OptionError(
            f"--memory is needed here, such as --memory 16GiB: only Linux says how much is free, and this is {os.name}"
        )
    return 1024 * int(available.group(1))


def own_memory(device: str) -> int:
    """Bytes that this process uses beside the :func:`free_memory`: its tensors on the card, or its pages in RAM."""
    if device.startswith("cuda"):
        return int(torch.cuda.memory_allocated(torch.device(device).index))
    try:
        return os.sysconf("SC_PAGE_SIZE") * int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return 0


def keeps_scores(device: str, dtype: str) -> bool:
    """Whether this torch computes encoder attention with all its scores at once, where the batch is padded.

    Args:
        dtype: a name in ``DTYPES``.
    """
    version = _torch_version()
    if device == "cuda":
        return version < (2, 0) or dtype == "fp64"
    return version < (2, 3)


def holds_projections() -> bool:
    """Whether this torch's attention still has queries, keys and values when it projects what it read."""
    return _torch_version() < (2, 12)


def _torch_version() -> Tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", torch.__version__)[:2])
