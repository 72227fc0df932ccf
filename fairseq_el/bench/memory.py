"""How much memory a program has now and had at most: of the process, or on the card."""

from __future__ import annotations

import resource
import sys
from pathlib import Path

import torch


class ProcessMemory:
    """Resident memory of this process, with Python and all libraries."""

    def now(self) -> int:
        return _resident_bytes("VmRSS")

    def peak(self) -> int:
        return _resident_bytes("VmHWM")

    def reset_peak(self) -> bool:
        """Whether the system can begin anew."""
        try:
            Path("/proc/self/clear_refs").write_text("5")
        except OSError:
            return False
        return True

    def wait(self) -> None:
        """Until all that was asked for is done: on a CPU it is."""


class CardMemory:
    """Bytes of torch's live tensors on the card; what its allocator holds beyond them is not counted."""

    def now(self) -> int:
        return torch.cuda.memory_allocated()

    def peak(self) -> int:
        return torch.cuda.max_memory_allocated()

    def reset_peak(self) -> bool:
        torch.cuda.reset_peak_memory_stats()
        return True

    def wait(self) -> None:
        """Until the card has done all that it was given."""
        torch.cuda.synchronize()


def _resident_bytes(name: str) -> int:
    """``VmRSS`` (now) or ``VmHWM`` (peak) of this process; where there is no /proc, the peak in both cases.

    The peak that getrusage tells would do as well, but begins with what the parent had when it started this process.
    """
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith(f"{name}:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
