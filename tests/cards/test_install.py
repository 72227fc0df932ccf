"""What scripts/install.sh would install, on machines with and without cards. Nothing is installed."""

from __future__ import annotations

import subprocess
import sys

import pytest
from commands import REPOSITORY

NEW = sys.version_info >= (3, 11)
DEFAULT = "torch==2.13.0" if NEW else "torch==1.12.1"


@pytest.fixture
def print_torch(monkeypatch):
    """The torch that install.sh takes for this Python, and what it says."""
    monkeypatch.delenv("TORCH", raising=False)

    def run():
        command = ["sh", str(REPOSITORY / "scripts" / "install.sh"), "--print-torch", sys.executable]
        process = subprocess.run(command, capture_output=True, text=True, check=True)
        return process.stdout.rstrip("\n"), process.stderr.rstrip("\n")

    return run


def test_a_card(nvidia_smi, print_torch):
    nvidia_smi(("7.0", "580.65.06"), ("8.0", "580.65.06"))
    torch, said = print_torch()
    assert torch == ("torch==2.10.0" if NEW else "torch==1.13.1")
    assert said.startswith(f"Taking {torch}: CUDA 1") and said.count("\n") == 0
    assert "(compute capability 7.0, driver 580.65.06; compute capability 8.0, driver 580.65.06)" in said


def test_an_old_driver(nvidia_smi, print_torch):
    nvidia_smi(told=False, second="echo 470.82.01")
    torch, said = print_torch()
    if NEW:
        assert torch == DEFAULT and "\nWarning: torch==2.10.0 needs driver 525 or newer (CUDA 12.8)" in said
    else:
        assert torch == "torch==1.13.1" and "Warning" not in said


def test_a_card_that_no_torch_serves(nvidia_smi, print_torch):
    nvidia_smi(("3.5", "470.82.01"))
    torch, said = print_torch()
    assert torch == DEFAULT
    assert (
        said.startswith(f"Taking {torch}.\nWarning: No torch on PyPI that works with ")
        and "take another torch that has some" in said
    )


def test_without_a_card(nvidia_smi, print_torch, monkeypatch):
    nvidia_smi(first="echo 'NVIDIA-SMI has failed'; exit 9")
    torch, said = print_torch()
    assert torch == DEFAULT and said.splitlines() == [
        "Note: nvidia-smi shows no card; it says: NVIDIA-SMI has failed. torch is chosen as without a card; set TORCH "
        "to take another.",
        f"Taking {DEFAULT}: no NVIDIA card was found.",
    ]


def test_torch_that_is_asked_for(nvidia_smi, print_torch, monkeypatch):
    nvidia_smi(("7.0", "580.65.06"))
    monkeypatch.setenv("TORCH", "torch==2.13.0")
    better = "torch==2.10.0" if NEW else "torch==1.12.1"
    assert print_torch() == (
        "torch==2.13.0",
        "Taking torch==2.13.0, as TORCH says.\nWarning: torch==2.13.0 has no kernels for a card of compute capability "
        f"7.0. TORCH={better} would serve it.",
    )
    monkeypatch.setenv("TORCH", "/a b/torch-2.4.0.whl")
    assert print_torch() == ("/a b/torch-2.4.0.whl", "Taking /a b/torch-2.4.0.whl, as TORCH says.")
    monkeypatch.setenv("TORCH", "")
    assert print_torch()[0] == better


def test_usage():
    command = [str(REPOSITORY / "scripts" / "install.sh"), "python3"]
    process = subprocess.run(command, capture_output=True, text=True, check=False)
    assert process.returncode == 2 and process.stderr.startswith("usage: scripts/install.sh PYTHON VENV")
