"""Fixtures and settings for all tests."""

from __future__ import annotations

import os
import runpy
import sys
from pathlib import Path

import hypothesis
import pytest
import torch

REPOSITORY = Path(__file__).resolve().parent.parent

hypothesis.settings.register_profile(
    "suite",  # the same cases every time, and no search for a smaller one; HYPOTHESIS_PROFILE=explore does both
    derandomize=True,
    phases=[hypothesis.Phase.explicit, hypothesis.Phase.generate],
    deadline=None,
    suppress_health_check=list(hypothesis.HealthCheck),
)
hypothesis.settings.register_profile(
    "explore", deadline=None, suppress_health_check=list(hypothesis.HealthCheck), print_blob=True
)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "suite"))

torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts the tests that take minutes first, so that no process waits for another's at the end."""
    items.sort(key=lambda item: all(item.get_closest_marker(name) is None for name in ("real", "long")))


@pytest.fixture(scope="session")
def shared() -> Path:
    """The directory with the real checkpoints and texts; tests that need it are skipped where it is not."""
    directory = Path(os.environ.get("FAIRSEQ_EL_SHARED", REPOSITORY.parent / "shared"))
    if not (directory / "models").is_dir():
        pytest.skip(f"no real checkpoints at {directory}; set FAIRSEQ_EL_SHARED to the directory that holds models/")
    return directory


@pytest.fixture(scope="session")
def repository() -> Path:
    return REPOSITORY


@pytest.fixture
def script(monkeypatch, capsys):
    """Runs a file of the repository in this process: programs take long to start.

    Returns what it printed, and why it ended, if it says so.
    """

    def run(name, *arguments):
        monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
        why = ""
        try:
            runpy.run_path(str(REPOSITORY / name), run_name="__main__")
        except SystemExit as ended:
            why = ended.code if isinstance(ended.code, str) else ""
        printed = capsys.readouterr()
        return printed.out + printed.err + why

    return run
