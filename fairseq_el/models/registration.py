"""Gives an EL model every architecture of its stock model, under the prefix ``el_``."""

from __future__ import annotations

from fairseq.models import ARCH_CONFIG_REGISTRY, ARCH_MODEL_INV_REGISTRY, register_model_architecture


def register_el_architectures(stock_model: str) -> None:
    """Registers ``el_<arch>`` for each registered ``<arch>`` of ``stock_model``, with the same default settings."""
    for arch in list(ARCH_MODEL_INV_REGISTRY[stock_model]):
        if f"el_{arch}" not in ARCH_CONFIG_REGISTRY:  # a model with a dataclass has one of its own name already
            register_model_architecture(f"el_{stock_model}", f"el_{arch}")(ARCH_CONFIG_REGISTRY[arch])
