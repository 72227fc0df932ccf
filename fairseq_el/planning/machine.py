"""The machine that decodes: its processor, its memory, and how its torch computes attention."""

from __future__ import annotations

import os
import platform
import re
from pathlib import Path
from typing import Optional, Tuple

import torch

from fairseq_el._compat import torch_version
from fairseq_el.errors import OptionError
from fairseq_el.planning.workload import TorchAttention


def processor_name() -> str:
    """The processor, with its family and model: a virtual machine's name alone is that of many processors."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        text = ""
    found = [re.search(rf"^{name}\s*:\s*(.+)$", text, re.M) for name in ("model name", "cpu family", "model")]
    if all(found):
        return "{}, family {}, model {}".format(*(match.group(1).strip() for match in found if match))
    return platform.processor() or platform.machine()


def num_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def free_memory(device: str) -> int:
    """Bytes that are free: on the current card (``"cuda"``), on another (``"cuda:1"``), or in RAM (``"cpu"``).

    On a card, this includes the memory that torch's pool keeps and no tensor uses: it is taken, but torch may use it.

    Raises:
        OptionError: there is no such card, or the system does not say how much is free.
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


def process_memory(device: str) -> int:
    """Bytes that this process uses, beside :func:`free_memory`: its tensors on the card, or its pages in RAM."""
    if device.startswith("cuda"):
        return int(torch.cuda.memory_allocated(torch.device(device).index))
    try:
        return os.sysconf("SC_PAGE_SIZE") * int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return 0


def torch_attention(device: str, dtype: str, capability: Optional[Tuple[int, int]] = None) -> TorchAttention:
    """The way in which this torch computes attention under a mask, such as that of padding.

    On CUDA only the memory-efficient kernel takes a mask, from torch 2.1 on. The width of its heads is limited because
    tensor cores read 16 bytes at a time. Source: torch's ``aten/src/ATen/native/transformers``, in
    ``cuda/sdp_utils.cpp`` ``check_head_dim_size_mem_efficient`` and ``minimum_gemm_alignment``, and in
    ``attention.cpp`` ``_scaled_dot_product_attention_math``, which casts.

    Args:
        dtype: a name in ``fairseq_el.dtypes.DTYPES``.
        capability: the card's compute capability (default: that of the card here, or of an A100 where there is none).
    """
    version = torch_version()
    if device != "cuda":
        return TorchAttention(int(version >= (2, 3)), casts=version >= (2, 5))
    if capability is None:
        capability = torch.cuda.get_device_capability() if torch.cuda.is_available() else (8, 0)
    return TorchAttention(_alignment_on_card(version, dtype, capability), casts=version >= (2, 5))


def _alignment_on_card(version: Tuple[int, ...], dtype: str, capability: Tuple[int, int]) -> int:
    if version < (2, 1) or dtype == "fp64" or (dtype == "bf16" and capability < (8, 0)):
        return 0
    if dtype == "fp32":
        return 4 if capability >= (8, 0) else 1  # older cards have tensor cores for 16 bits only
    return 8 if capability >= (7, 0) else 1


def holds_projections() -> bool:
    """Returns whether this torch's attention still holds queries, keys and values while it projects its output."""
    return torch_version() < (2, 12)
