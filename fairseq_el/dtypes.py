"""Number formats by the names that the command line has for them, and what a device lacks."""

from __future__ import annotations

from typing import Tuple

import torch

TORCH_DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32, "fp64": torch.float64}


def dtype_name(dtype: torch.dtype) -> str:
    """``"fp16"`` for ``torch.float16``.

    Raises:
        KeyError: it has no name here.
    """
    return {known: name for name, known in TORCH_DTYPES.items()}[dtype]


def supported_dtype(name: str, device: str) -> Tuple[str, str]:
    """The format to use where ``name`` is asked for.

    Args:
        name: in ``TORCH_DTYPES``.
        device: ``"cpu"`` or ``"cuda"``.

    Returns:
        ``name`` and nothing, or what comes closest and why ``name`` is not used.
    """
    if name in ("fp32", "fp64"):
        return name, ""
    if device == "cuda":
        if name == "bf16" and torch.cuda.get_device_capability() < (8, 0):
            return "fp16", "this card has no bfloat16 arithmetic (it came with compute capability 8.0)"
        return name, ""
    check = getattr(torch.ops.mkldnn, f"_is_mkldnn_{name}_supported", None)
    if torch.backends.mkldnn.is_available() and check is not None and check():
        return name, ""
    return "fp32", f"torch {torch.__version__} has no fast {name} products for this processor"
