"""Feature maps ``g`` of linear attention, which has ``g(q)^T g(k)`` in the place of a softmax's exponential.

Likhosherstov et al., "Sub-Linear Memory: How to Make Performers SLiM", NeurIPS 2021, arXiv 2012.11346, section 2.2
(``sqr`` is the paper's own choice); ``favor+``: Choromanski et al., "Rethinking Attention with Performers", ICLR 2021.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

FEATURE_MAPS = ("sqr", "relu", "elu+1", "favor+")


def feature_map(name: str, x: Tensor, directions: Tensor | None = None, of_queries: bool = False) -> Tensor:
    """Features ``g(x)``, never negative.

    Args:
        name: one of ``FEATURE_MAPS``.
        x: queries or keys. *Shape:* ``(B, L, h, dh)``.
        directions: for ``favor+``, from :func:`orthogonal_directions`. *Shape:* ``(h, M, dh)``.
        of_queries: scale the features of every position so that they can't all underflow. The scale cancels in
            attention; features of keys have none, for they are compared to each other.

    Returns:
        *Shape:* ``(B, L, h, M)``; ``M`` is ``dh`` for all but ``favor+``.

    Raises:
        ValueError: there is no such feature map.
    """
    if name == "sqr":
        return x * x
    if name == "relu":
        return functional.relu(x)
    if name == "elu+1":
        return functional.elu(x) + 1
    if name == "favor+":
        assert directions is not None, "favor+ needs directions"
        # E[exp(w q - |q|^2 / 2) exp(w k - |k|^2 / 2)] = exp(q k); the mean's 1 / M cancels in attention
        x = x * x.size(-1) ** -0.25
        along = torch.einsum("blhd,hmd->blhm", x, directions.to(x.dtype))
        # attention's gradient by the scale of a query's features is zero: none has to go through the maximum
        scale = along.detach().amax(dim=-1, keepdim=True) if of_queries else (x * x).sum(dim=-1, keepdim=True) / 2
        return torch.exp(along - scale)
    raise ValueError(f"the feature map must be one of {', '.join(FEATURE_MAPS)}; got {name!r}")


def orthogonal_directions(num_heads: int, num_features: int, head_dim: int, seed: int) -> Tensor:
    """Random directions of ``favor+``: normally distributed each, orthogonal to each other in blocks of ``dh``.

    They come from a generator of their own, so the same seed gives the same directions everywhere.

    Returns:
        *Shape:* ``(h, M, dh)``, float32.
    """
    generator = torch.Generator().manual_seed(seed)
    num_blocks = -(-num_features // head_dim)
    normal = torch.randn(num_heads, num_blocks, head_dim, head_dim, generator=generator, dtype=torch.float64)
    rotations, triangle = torch.linalg.qr(normal)
    signs = triangle.diagonal(dim1=-2, dim2=-1).sign().unsqueeze(-2)
    directions: Tensor = rotations * signs  # all rotations are equally likely
    lengths = torch.randn(num_heads, num_blocks, head_dim, head_dim, generator=generator, dtype=torch.float64).norm(
        dim=3
    )
    directions = (directions * lengths.unsqueeze(3)).reshape(num_heads, -1, head_dim)
    return directions[:, :num_features].float()
