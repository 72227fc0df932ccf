"""The version of torch that is installed. What this package does differs between versions."""

from __future__ import annotations

import re
from typing import Tuple

import torch


def torch_version() -> Tuple[int, int]:
    """The first two numbers of torch's version: ``(2, 10)`` for ``2.10.0+cu128``."""
    major, minor = re.findall(r"\d+", torch.__version__)[:2]
    return int(major), int(minor)
