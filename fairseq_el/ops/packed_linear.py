"""A linear layer on a CPU, with its weight laid out once as the processor multiplies it.

oneDNN, torch's library for such products, reorders a weight into blocks that fit the processor's registers and tiles.
Given a plain weight it does so in every call; for the few rows that a decoder step has, that takes longer than the
product. torch's own compiler packs weights with the same two operators.
"""

from __future__ import annotations

import functools
import logging
from typing import Optional

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

logger = logging.getLogger(__name__)

_CHECKS = {torch.bfloat16: "_is_mkldnn_bf16_supported", torch.float16: "_is_mkldnn_fp16_supported"}
_FUNCTIONS = {"none": None, "relu": F.relu, "gelu": F.gelu}
_OPERATORS = ("_linear_pointwise", "_reorder_linear_weight")


@functools.lru_cache(maxsize=None)
def can_pack(device_type: str, dtype: torch.dtype) -> bool:
    """Returns whether this torch can pack weights of this kind, for this processor."""
    if device_type != "cpu" or not torch.backends.mkldnn.is_available():
        return False
    if not all(hasattr(torch.ops.mkldnn, name) for name in _OPERATORS):
        logger.info("This torch (%s) can't keep weights packed for oneDNN; plain products are used", torch.__version__)
        return False
    if dtype == torch.float32:
        return True
    check = getattr(torch.ops.mkldnn, _CHECKS.get(dtype, ""), None)
    return check is not None and bool(check())


class PackedLinear:
    """A linear layer ``y = activation(x W^T + b)``, without gradients. It does not see later changes of the weight.

    Attributes:
        weight: the packed weight, which only oneDNN's operators can read.
        fuses: whether oneDNN may apply the activation.
    """

    def __init__(self, weight: Tensor, bias: Optional[Tensor], num_rows: int):
        """Packs a weight.

        Args:
            weight: as ``nn.Linear`` keeps it; :func:`can_pack` holds for it. *Shape:* ``(out, in)``.
            bias: *Shape:* ``(out)``.
            num_rows: how many rows ``x`` will have, about.
        """
        self.weight = torch.ops.mkldnn._reorder_linear_weight(weight.detach(), num_rows)
        self._bias = None if bias is None else bias.detach()
        # oneDNN's ReLU takes NaN for 0: a damaged weight must show in what is computed, as it does in torch.
        self.fuses = all(_is_finite(tensor.detach()) for tensor in (weight, bias) if tensor is not None)

    def __call__(self, x: Tensor, activation: str = "none") -> Tensor:
        """Computes ``y``.

        Args:
            x: *Shape:* ``(..., in)``.
            activation: ``"none"``, ``"relu"``, or ``"gelu"`` (with the error function). Applied before rounding to 16
                bits.

        Returns:
            *Shape:* ``(..., out)``.
        """
        function = None if self.fuses else _FUNCTIONS[activation]
        if function is not None:
            return function(self(x))
        algorithm = "none" if activation == "gelu" else ""
        output: Tensor = torch.ops.mkldnn._linear_pointwise(x, self.weight, self._bias, activation, [], algorithm)
        return output


def _is_finite(tensor: Tensor) -> bool:
    """Returns whether no number is infinite or NaN, without a copy of the tensor."""
    return all(bool(torch.isfinite(extreme)) for extreme in torch.aminmax(tensor))
