"""Gives a model every architecture of its stock model, under a prefix."""

from __future__ import annotations

from fairseq.models import ARCH_CONFIG_REGISTRY, ARCH_MODEL_INV_REGISTRY, register_model_architecture


def register_architectures(stock_model: str, prefix: str) -> None:
    """Registers ``<prefix>_<arch>`` for each ``<arch>`` of ``stock_model``, with the same default settings."""
    for arch in list(ARCH_MODEL_INV_REGISTRY[stock_model]):
        if f"{prefix}_{arch}" not in ARCH_CONFIG_REGISTRY:  # a model with a dataclass has one of its own name already
            register_model_architecture(f"{prefix}_{stock_model}", f"{prefix}_{arch}")(ARCH_CONFIG_REGISTRY[arch])
