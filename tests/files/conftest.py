from __future__ import annotations

from pathlib import Path

import pytest
from processes import BY

from fairseq_el.files import write_whole_directory


@pytest.fixture
def directory(tmp_path) -> Path:
    """A directory that is whole, with one file."""
    path = tmp_path / "a"
    write_whole_directory(path, lambda unfinished: (unfinished / "file").write_text("old"), BY)
    return path
