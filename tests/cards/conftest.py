"""A machine with cards, faked: ``nvidia-smi`` on PATH, and what torch says of them."""

from __future__ import annotations

import os

import pytest
import torch

from fairseq_el.cards import check

FAKE = """#!/bin/sh
case "$*" in
"--query-gpu=compute_cap,driver_version --format=csv,noheader") {first} ;;
"--query-gpu=driver_version --format=csv,noheader") {second} ;;
*) echo "unknown question: $*" >&2; exit 3 ;;
esac
"""
OLD = "echo 'Field \"compute_cap\" is not a valid field to query.'; exit 2"  # what an nvidia-smi says that has none


@pytest.fixture
def nvidia_smi(tmp_path, monkeypatch):
    """Puts an ``nvidia-smi`` on PATH, which shows these cards: ``("7.0", "535.104.05")``; or runs shell commands."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)

    def make(*cards, told=True, first=None, second="exit 1"):
        """``told=False``: an old one, which does not know compute capabilities."""
        lines = " && ".join(f"echo '{capability}, {driver}'" for capability, driver in cards)
        program = tmp_path / "bin" / "nvidia-smi"
        program.parent.mkdir(exist_ok=True)
        program.write_text(FAKE.format(first=first or (lines if told else OLD), second=second))
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")

    return make


@pytest.fixture
def fake_torch(monkeypatch):
    """What torch says: a card of some compute capability or none, what it was built for, its version and CUDA."""

    def make(capability=None, kernels=(), version="2.13.0+cu130", cuda="13.0", name="Tesla V100-SXM2-16GB"):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: capability is not None)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: capability)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda device=None: name)
        monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: list(kernels))
        monkeypatch.setattr(torch, "__version__", version)
        monkeypatch.setattr(torch.version, "cuda", cuda)
        monkeypatch.setattr(check.sys, "argv", ["program"])
        monkeypatch.setattr(check.sys, "version_info", (3, 11, 7))
        monkeypatch.setattr(check.platform, "machine", lambda: "x86_64")

    forget = (check._check_card.cache_clear, check.warn_of_idle_card.cache_clear)
    for clear in forget:
        clear()
    yield make
    for clear in forget:
        clear()
