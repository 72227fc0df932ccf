"""A linear layer on a CPU whose products are of whole numbers in 8 bits.

``y_ij = s_i t_j (a_i . w_j) + b_j`` with ``a_i = round(x_i / s_i)`` and ``w_j = round(W_j / t_j)``. Every row of ``x``
and of ``W`` has a scale of its own, a 127th of its largest number. Products are added in 32 bits, exactly, so that a
row's result does not depend on the rows beside it.

oneDNN multiplies by ``torch.ops.onednn.qlinear_pointwise``, from a weight that ``torch.ops.onednn.qlinear_prepack`` has
laid out. It has fast products of unsigned numbers only, so that ``a + 128`` is what it gets, and 128 is its zero. On
processors before VNNI it adds pairs of products in 16 bits, which overflows: :func:`why_no_int8` finds that out.
"""

from __future__ import annotations

import functools
from typing import Optional, Tuple

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

LARGEST = 127
ZERO = 128
_FUNCTIONS = {"none": None, "relu": torch.relu_, "gelu": F.gelu}


@functools.lru_cache(maxsize=None)
def why_no_int8(device_type: str) -> str:
    """Returns why weights can't be used in 8 bits here, or ``""`` if they can."""
    if device_type != "cpu":
        return f"the model is on {device_type}, and products in 8 bits are for a CPU"
    if not all(hasattr(torch.ops.onednn, name) for name in ("qlinear_prepack", "qlinear_pointwise")):
        return f"torch {torch.__version__} has no operator for such products; newer ones have"
    extreme = torch.full((2, 64), float(LARGEST))
    try:
        found = Int8Linear(extreme, None)(extreme)
    except RuntimeError as error:
        return f"torch {torch.__version__} fails at them: {str(error).splitlines()[0]}"
    if not bool((found == LARGEST * LARGEST * 64).all()):
        return "this processor has no exact products in 8 bits (AVX512-VNNI or AVX-VNNI)"
    return ""


class Int8Linear:
    """A linear layer, without gradients, that keeps a copy of its weight in 8 bits and sees no later change of it.

    A row with an infinite number or NaN, in ``x`` or in the weight, has results that are not finite.

    Attributes:
        weight: opaque, as ``qlinear_prepack`` gives it. *Shape:* ``(in, out)``.
        scales: what a row of the weight is multiplied by, in float32. *Shape:* ``(out)``.
        zeros: the zeros of the weight's rows, all 0, in int32. *Shape:* ``(out)``.
        bias: in float32, or None. *Shape:* ``(out)``.
    """

    def __init__(self, weight: Tensor, bias: Optional[Tensor]):
        """
        Args:
            weight: as ``nn.Linear`` keeps it, in float32. *Shape:* ``(out, in)``.
            bias: *Shape:* ``(out)``.
        """
        integers, self.scales = quantize_rows(weight.detach())
        self.zeros = torch.zeros(weight.size(0), dtype=torch.int32)
        self.weight: Tensor = torch.ops.onednn.qlinear_prepack(integers, None)
        self.bias = None if bias is None else bias.detach()

    def __call__(self, x: Tensor, activation: str = "none") -> Tensor:
        """Computes ``activation(x W^T + b)``.

        Args:
            x: in float32. *Shape:* ``(..., in)``.
            activation: ``"none"``, ``"relu"``, or ``"gelu"`` (with the error function).

        Returns:
            *Shape:* ``(..., out)``.
        """
        integers, scales = quantize_rows(x.reshape(-1, x.size(-1)))
        rows = torch.ops.onednn.qlinear_pointwise(
            integers.view(torch.uint8).add_(ZERO),  # wraps around
            1.0,  # scale and zero of x
            ZERO,
            self.weight,
            self.scales,
            self.zeros,
            None,  # the bias is added when rows are scaled
            1.0,  # scale and zero of the output, which is not rounded
            0,
            torch.float32,
            "none",  # no activation in it
            [],
            "",
        )
        scales = scales.unsqueeze(1)
        y: Tensor = rows.mul_(scales) if self.bias is None else torch.addcmul(self.bias, rows, scales, out=rows)
        function = _FUNCTIONS[activation]
        return (y if function is None else function(y)).view(*x.shape[:-1], y.size(-1))

    def size_bytes(self) -> int:
        """Bytes of the copy: a number each, and two of 4 bytes for a row."""
        return self.weight.numel() + 8 * self.scales.numel()


def quantize_rows(x: Tensor) -> Tuple[Tensor, Tensor]:
    """Rounds rows to whole numbers from -127 to 127, ties to even.

    A row of zeros, divided by zero, becomes any numbers: its scale is 0.

    Args:
        x: *Shape:* ``(rows, width)``.

    Returns:
        the numbers in int8, and what each row is to be multiplied by. *Shapes:* ``(rows, width)`` and ``(rows)``.
    """
    scales = x.abs().amax(dim=1).div_(LARGEST)
    return (x / scales.unsqueeze(1)).round_().to(torch.int8), scales
