"""fairseq's own tests of its generators, with this package's in their place."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import fairseq_el

TESTS = Path(__file__).resolve().parent.parent
NAME = "FAIRSEQ_EL_FAIRSEQ_TESTS"


@pytest.fixture
def directory() -> Path:
    found = Path(os.environ.get(NAME, ""))
    if not (found / "test_sequence_generator.py").is_file():
        pytest.skip(f"set {NAME} to the directory tests of fairseq's repository, which no package of fairseq contains")
    return found


def outcomes(directory: Path, kind: str, file: Path) -> dict:
    paths = [str(Path(fairseq_el.__file__).resolve().parent.parent), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    command = [sys.executable, str(TESTS / "helpers" / "fairseqs_own_tests.py"), str(directory), kind, str(file)]
    subprocess.run(command, check=True, capture_output=True, env=environment)
    return json.loads(file.read_text())


def test_none_fails_that_stock_passes(directory, tmp_path):
    stock = outcomes(directory, "stock", tmp_path / "stock.json")
    mine = outcomes(directory, "el", tmp_path / "el.json")
    assert mine["run"] == stock["run"] > 20 and mine["skipped"] == stock["skipped"]
    assert {name: why for name, why in mine["failed"].items() if name not in stock["failed"]} == {}
