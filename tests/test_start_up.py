"""What is imported at start-up: no more than a program needs, because modules of other packages take long to load."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent

# Of the package, and of others: what only side features need.
NOT_FOR_DECODING = {
    *(
        f"fairseq_el.{part}"
        for part in ("bench", "cli", "conversion", "jobs", "recipes", "scoring", "subprocesses", "text", "workers")
    ),
    *("fairseq_el.planning.calibration", "fairseq_el.planning.report"),
    *("matplotlib", "rouge_score", "safetensors", "sentencepiece", "tokenizers", "transformers"),
}
COMMAND = """
import contextlib, io, json, sys
sys.argv[0] = "/somewhere/bin/fairseq-el"
from fairseq_el.cli import main
with contextlib.redirect_stdout(io.StringIO()):
    try:
        status = main()
    except SystemExit as ended:
        status = ended.code
assert status == STATUS, status
"""
LOADED = "import json, sys; print(json.dumps(sorted(sys.modules)))"


def loaded_by(program: str, *arguments: str) -> set[str]:
    """The modules that are loaded when a program has run."""
    process = subprocess.run(
        [sys.executable, "-c", f"{program}\n{LOADED}", *arguments],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 0, process.stderr
    return set(json.loads(process.stdout.splitlines()[-1]))


def test_decoding_loads_no_side_features():
    loaded = loaded_by("import fairseq_cli.generate, fairseq_el")
    assert {"fairseq_el.plugin", "fairseq_el.tasks.translation", "fairseq_el.generation.generator"} <= loaded
    assert loaded & NOT_FOR_DECODING == set()


def test_the_user_directory_loads_no_package_that_fairseq_does_not():
    """Beside Python's own; fairseq has been imported when it imports a user directory."""
    stock = loaded_by("import fairseq_cli.generate, fairseq.models.bart")
    added = loaded_by("import fairseq_cli.generate, fairseq.models.bart, fairseq_el") - stock
    ours = {name for name in added if name.partition(".")[0] == "fairseq_el"}
    packages = {name.partition(".")[0] for name in added - ours} - {name.partition(".")[0] for name in stock}
    assert ours and packages <= set(getattr(sys, "stdlib_module_names", packages))


@pytest.mark.parametrize(
    ("arguments", "status", "absent"),
    [
        (["--help"], 0, {"fairseq", "torch", "numpy"}),
        (["nonsense"], 2, {"fairseq", "torch", "numpy"}),
        (["score", "README.md", "--ref", "README.md", "--metrics", "chrf"], 0, {"fairseq", "torch"}),
        (["calibrate", "--help"], 0, {"fairseq"}),
        (["merge", "--help"], 0, {"fairseq", "torch"}),
        (["progress", "--help"], 0, {"fairseq", "torch"}),
        (["generate", "--help"], 0, {"fairseq", "torch"}),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_commands_load_no_more_than_they_need(arguments, status, absent):
    assert loaded_by(COMMAND.replace("STATUS", str(status)), *arguments) & absent == set()


@pytest.mark.parametrize("command", ["plan", "convert"])
def test_commands_that_need_fairseq_have_everything_registered(command):
    assert "fairseq_el.plugin" in loaded_by(COMMAND.replace("STATUS", "0"), command, "--help")


def test_public_names_are_there_in_a_command_too():
    program = """
import sys
sys.argv[0] = "fairseq-el"
import fairseq_el
assert "fairseq" not in sys.modules
assert not hasattr(fairseq_el, "nothing")
for name in fairseq_el.__all__:
    getattr(fairseq_el, name)
from fairseq.tasks import TASK_REGISTRY
assert "el_translation" in TASK_REGISTRY
"""
    assert "fairseq_el.plugin" in loaded_by(program)
