"""What ``docs/recipes.md`` shows. The demo's recipe runs on the bundled model, which is real."""

from __future__ import annotations

import os
import re
import shlex
import subprocess

import pytest
from commands import EXAMPLE, REPOSITORY

from fairseq_el.cli import main
from fairseq_el.errors import FairseqElError
from fairseq_el.recipes import read_recipe

DOCUMENTATION = REPOSITORY / "docs" / "recipes.md"


@pytest.mark.long
def test_the_commands_of_the_documentation(tmp_path, monkeypatch, capsys):
    """BLEU is that of examples/deen."""
    steps, script = re.findall(r"```sh\n(.*?)```", DOCUMENTATION.read_text("utf-8"), re.S)
    assert f"\n{script}```" in (REPOSITORY / "README.md").read_text("utf-8")
    for name in ("configs", "examples", "scripts"):
        (tmp_path / name).symlink_to(REPOSITORY / name)
    monkeypatch.chdir(tmp_path)
    for skipped in (0, 3):
        for command in steps.splitlines():
            name, *arguments = shlex.split(command)
            assert name == "fairseq-el" and main(arguments) == 0
        printed = capsys.readouterr().out
        assert printed.count("nothing to do") == skipped
        assert re.search(r"^BLEU +34\.74 ", printed, re.M)
    assert (tmp_path / "recipes" / "demo" / "captions.de").read_bytes() == (EXAMPLE / "captions.de").read_bytes()
    echo = tmp_path / "bin" / "fairseq-el"
    echo.parent.mkdir()
    echo.write_text('#!/bin/sh\necho fairseq-el "$@"\ntest "$2" != generate || exit $FAILS\n')
    echo.chmod(0o755)
    for fails, commands in ((0, steps.splitlines()), (7, steps.splitlines()[:3])):
        environment = {**os.environ, "PATH": f"{echo.parent}{os.pathsep}{os.environ['PATH']}", "FAILS": str(fails)}
        process = subprocess.run(["sh", "-ec", script], env=environment, capture_output=True, text=True, check=False)
        assert process.stdout.splitlines() == [f"{command} --work recipes/demo" for command in commands]
        assert process.returncode == fails


def test_the_yaml_file_of_the_documentation(tmp_path):
    (block,) = re.findall(r"```yaml\n(.*?)```", DOCUMENTATION.read_text("utf-8"), re.S)
    block = block.replace("0123...", "ab" * 32)
    path = tmp_path / "recipe.yaml"
    path.write_text(block)
    with pytest.raises(FairseqElError) as error:
        read_recipe(path)
    problems = str(error.value).split("\n  - ")[1:]
    assert problems == [  # every key is known; only what the example leaves out is missing
        "files must say where encoder.json comes from",
        "files must say where vocab.bpe comes from",
        "prompt_end is for task language_modeling",
    ]
