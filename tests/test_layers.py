"""Imports point one way: ops <- decoding <- architectures, generation <- tasks <- bench <- cli."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "fairseq_el"
BELOW = {  # what each part of the package may import
    "_compat": set(),
    "errors": set(),
    "policy": set(),
    "dtypes": set(),
    "_torch_version": set(),
    "units": set(),
    "measure": {"_torch_version"},
    "checkpoint_loading": {"_torch_version"},
    "subprocesses": {"errors"},
    "cards": {"cards", "errors"},
    "files": {"errors", "files"},
    "failure_report": {"cards", "checkpoint_loading", "errors"},
    "ops": {"_torch_version", "ops"},
    "topk": {"decoding", "errors", "ops", "topk"},
    "decoding": {"cards", "decoding", "dtypes", "errors", "ops", "policy", "topk"},
    "architectures": {"architectures", "decoding", "errors", "topk"},
    "planning": {"_torch_version", "dtypes", "errors", "files", "measure", "ops", "planning", "policy", "units"},
    "generation": {"cards", "decoding", "dtypes", "errors", "generation", "ops", "planning", "policy", "units"},
    "tasks": {
        *("cards", "decoding", "dtypes", "errors", "failure_report", "generation", "planning", "policy", "tasks"),
        *("topk", "units"),
    },
    "slim": {"errors", "ops", "slim", "tasks"},
    "scoring": {"errors", "files", "scoring"},
    "tokenization": {"errors", "files", "tokenization"},
    "conversion": {
        *("checkpoint_loading", "conversion", "decoding", "errors", "failure_report", "files", "tokenization"),
    },
    "recipes": {
        *("cards", "conversion", "errors", "files", "planning", "recipes", "scoring", "subprocesses", "tokenization"),
        *("dtypes", "units"),
    },
    "bench": {
        *("bench", "conversion", "decoding", "dtypes", "errors", "failure_report", "files", "measure"),
        *("planning", "scoring", "tasks", "units"),
    },
    "cli": {
        *("bench", "cards", "cli", "conversion", "decoding", "dtypes", "errors", "files", "generation", "ops"),
        *("planning", "recipes", "scoring", "subprocesses", "tasks", "tokenization", "units"),
    },
}
PURE = {"_compat", "_torch_version", "cards", "dtypes", "errors", "ops", "planning", "policy", "units"}  # no fairseq
FILES = sorted(PACKAGE.rglob("*.py"))


def imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_point_one_way(path):
    part = path.relative_to(PACKAGE).parts[0]
    part = part[: -len(".py")] if part.endswith(".py") else part
    if part == "__init__":
        return
    names = set(imports(path))
    mine = {name.split(".")[1] for name in names if name.startswith("fairseq_el.")}
    assert mine <= BELOW[part], f"{part} may import {sorted(BELOW[part])}"
    if part in PURE:
        assert not any(name.split(".")[0] in ("fairseq", "fairseq_cli") for name in names)


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_library_code_does_not_print(path):
    calls = [node.func for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
    assert not any(isinstance(func, ast.Name) and func.id == "print" for func in calls)
