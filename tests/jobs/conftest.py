from __future__ import annotations

from pathlib import Path

import pytest
import tiny_jobs


@pytest.fixture
def work(tmp_path) -> Path:
    """A directory with an input of 40 lines."""
    path = tmp_path / "work"
    path.mkdir()
    tiny_jobs.write_input(path / "in.txt", 40)
    return path
