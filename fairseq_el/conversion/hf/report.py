"""What a conversion has to say."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import List, Optional


@dataclass
class Report:
    """Of one directory that was written."""

    family: str
    arch: str  # of fairseq's checkpoint
    tensors: int
    vocabulary: int
    notes: List[str] = field(default_factory=list)  # what was not carried over, or is not the same
    usage: List[str] = field(default_factory=list)  # command lines, with {out} for the directory
    largest_difference: Optional[float] = None  # of logits, of the largest logit; None without --verify
