"""The README's own ``fairseq-el bench``."""

from __future__ import annotations

import re

import pytest
from commands import EXAMPLE, REPOSITORY, run


@pytest.mark.long
def test_the_readmes_command_on_the_bundled_model(data):
    readme = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    (command,) = re.findall(r"^fairseq-el (bench .*)$", readme, re.M)
    replaced = {"DATA": str(data), "model.pt": str(EXAMPLE / "model.pt")}
    printed = run("el", *(replaced.get(word, word) for word in command.split())).stdout
    for method in ("stock@fp32", "el@fp32", "auto@bf16"):
        assert method in printed
