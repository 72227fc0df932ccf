"""Imports point one way: ops <- modules <- models, criterions, generation <- tasks <- bench <- cli."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "fairseq_el"
BELOW = {  # what each part of the package may import
    "_requirements": set(),
    "_user_dir": set(),
    "errors": set(),
    "cards": {"cards", "errors"},
    "programs": {"errors"},
    "workplace": {"errors"},
    "records": {"errors"},
    "outputs": {"errors", "reading", "records", "whole_files", "workplace"},
    "whole_files": {"errors", "reading", "records", "workplace"},
    "text_lines": {"errors", "reading"},
    "checkpoint_loading": set(),
    "failure_report": {"cards", "checkpoint_loading", "errors"},
    "reading": {"errors"},
    "ops": {"ops"},
    "modules": {"cards", "ops", "modules", "planning", "errors"},
    "models": {"ops", "modules", "models", "errors"},
    "criterions": {"ops", "modules", "criterions", "errors"},
    "generation": {"cards", "ops", "modules", "planning", "generation", "errors"},
    "tasks": {"cards", "ops", "modules", "models", "generation", "planning", "tasks", "errors", "failure_report"},
    "planning": {"planning", "errors", "reading", "whole_files"},
    "scoring": {"scoring", "errors", "text_lines"},
    "tokenization": {"tokenization", "errors", "reading"},
    "conversion": {
        *("modules", "conversion", "tokenization", "checkpoint_loading", "errors", "failure_report", "outputs"),
        *("reading", "whole_files"),
    },
    "recipes": {
        *("cards", "recipes", "planning", "scoring", "conversion", "tokenization", "errors", "programs", "reading"),
        *("records", "text_lines", "whole_files", "workplace"),
    },
    "bench": {"ops", "modules", "tasks", "planning", "bench", "errors", "failure_report", "whole_files"},
    "cli": {
        *("ops", "modules", "models", "generation", "tasks", "planning", "scoring", "conversion", "bench", "cli"),
        *("cards", "recipes", "tokenization", "errors", "failure_report", "outputs", "programs", "reading"),
        *("text_lines", "whole_files"),
    },
}
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
    if part in ("ops", "planning", "cards", "_requirements", "_user_dir", "errors"):
        assert not any(name.split(".")[0] in ("fairseq", "fairseq_cli") for name in names)


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_library_code_does_not_print(path):
    calls = [node.func for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
    assert not any(isinstance(func, ast.Name) and func.id == "print" for func in calls)
