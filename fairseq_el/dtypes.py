"""Number formats: their names on the command line, torch's dtypes, their bytes, and what a device lacks."""

from __future__ import annotations

from typing import Any, Dict, NamedTuple, Tuple

import torch


class Dtype(NamedTuple):
    """A number format.

    Attributes:
        torch_dtype: torch's name of it.
        num_bytes: bytes of one number.
    """

    torch_dtype: torch.dtype
    num_bytes: int


DTYPES: Dict[str, Dtype] = {
    "fp16": Dtype(torch.float16, 2),
    "bf16": Dtype(torch.bfloat16, 2),
    "fp32": Dtype(torch.float32, 4),
    "fp64": Dtype(torch.float64, 8),
}


def dtype_name(dtype: torch.dtype) -> str:
    """``"fp16"`` for ``torch.float16``.

    Raises:
        KeyError: it has no name here.
    """
    return {known.torch_dtype: name for name, known in DTYPES.items()}[dtype]


def supported_dtype(name: str, device: str) -> Tuple[str, str]:
    """The format to use where ``name`` is asked for.

    Args:
        name: in ``DTYPES``.
        device: ``"cpu"`` or ``"cuda"``.

    Returns:
        ``name`` and ``""``; or the closest format that the device has, and why ``name`` is not used.
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


def place_of(model: Any) -> Tuple[torch.device, torch.dtype]:
    """The device and the dtype that a model computes with: those of its first parameter, or else of its first buffer.

    For a model without either, those of torch's new tensors.
    """
    for tensors in (model.parameters(), model.buffers()):
        for tensor in tensors:
            if tensor.is_floating_point():
                return tensor.device, tensor.dtype
    return torch.empty(0).device, torch.get_default_dtype()
