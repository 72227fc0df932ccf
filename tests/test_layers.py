"""Imports point one way: ops <- decoding <- generation <- tasks <- bench <- cli, and go through what is public."""

from __future__ import annotations

import ast
import importlib
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "fairseq_el"
BELOW = {  # what each part of the package imports; "" is the package itself, for its path
    "_compat": "",
    "dtypes": "",
    "errors": "",
    "policy": "",
    "units": "",
    "checkpoint_loading": "_compat",
    "measure": "_compat",
    "subprocesses": "errors",
    "cards": "errors",
    "failure_report": "cards checkpoint_loading errors",
    "files": "errors",
    "ops": "_compat",
    "decoding": "cards dtypes errors ops policy",
    "native": "decoding dtypes ops policy",
    "architectures": "decoding errors",
    "topk": "architectures decoding errors ops",
    "planning": "_compat dtypes errors files measure ops policy units",
    "generation": "_compat cards decoding dtypes errors native ops planning policy units",
    "tasks": "cards decoding dtypes errors failure_report generation topk units",
    "slim": "errors ops tasks",
    "tokenization": "errors files",
    "scoring": "errors files",
    "conversion": "checkpoint_loading decoding errors failure_report files tokenization",
    "jobs": "errors files",
    "text": "cards errors failure_report files generation jobs planning tasks units",
    "workers": "errors jobs text",
    "recipes": "cards conversion dtypes errors files scoring subprocesses tokenization",
    "bench": "conversion decoding dtypes errors failure_report files generation measure planning scoring tasks units",
    "plugin": "_compat architectures checkpoint_loading decoding generation slim tasks tokenization topk",
    "cli": """
        bench cards conversion decoding dtypes errors files generation jobs ops planning plugin recipes scoring
        subprocesses tasks text tokenization units workers
    """,
}
PURE = {"_compat", "cards", "dtypes", "errors", "ops", "planning", "policy", "units"}  # no fairseq
PUBLIC = {  # modules of a package that others import beside its __init__
    "cards.check": "cards/__init__ imports nothing, because scripts/choose_torch.py runs before torch is installed",
    "conversion.hf": "a package of its own, which only those need that convert models of Hugging Face",
    "planning.calibration": "runs operations to measure the machine, which the planner's arithmetic does without",
    "planning.report": "what fairseq-el plan prints, which decoding does not need",
}
FILES = sorted(PACKAGE.rglob("*.py"))


def part_of(path):
    return path.relative_to(PACKAGE).parts[0].partition(".")[0]


def imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def parts_used(path):
    """The other parts of the package that a file imports."""
    names = {name.split(".")[1] for name in imports(path) if name.startswith("fairseq_el.")}
    return {name for name in names if name in BELOW} - {part_of(path)}


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_point_one_way(path):
    part = part_of(path)
    if part == "__init__":
        return
    assert parts_used(path) <= set(BELOW[part].split())
    if part in PURE:
        assert not any(name.split(".")[0] in ("fairseq", "fairseq_cli") for name in imports(path))


def test_every_part_of_the_package_is_in_the_table():
    assert {part_of(path) for path in FILES} - {"__init__"} == set(BELOW)


@pytest.mark.parametrize("part", BELOW)
def test_the_table_names_no_more_than_is_imported(part):
    used = {name for path in FILES if part_of(path) == part for name in parts_used(path)}
    assert set(BELOW[part].split()) == used


def test_the_table_has_no_circle():
    left = {part: set(below.split()) for part, below in BELOW.items()}
    while left:
        lowest = {part for part, below in left.items() if not below & left.keys()}
        assert lowest, f"a circle among {sorted(left)}"
        left = {part: below for part, below in left.items() if part not in lowest}


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_other_packages_are_imported_through_what_is_public(path):
    """``from fairseq_el.ops import x``, where x is in the package's ``__all__``; or a module of the list above."""
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.ImportFrom) or not node.module.startswith("fairseq_el."):
            continue
        part, *inside = node.module.split(".")[1:]
        if part == part_of(path):
            continue
        assert not inside or f"{part}.{inside[0]}" in PUBLIC, f"line {node.lineno}: import it from fairseq_el.{part}"
        names = {alias.name for alias in node.names}
        if not inside and (PACKAGE / part).is_dir():
            public = set(getattr(importlib.import_module(node.module), "__all__", ()))
            assert names <= public, f"line {node.lineno}: {sorted(names - public)} are not in {part}.__all__"
        assert not any(name.startswith("_") for name in names), f"line {node.lineno}: a private name"


@pytest.mark.parametrize("module", PUBLIC)
def test_public_modules_are_imported_by_others(module):
    part = module.partition(".")[0]
    others = [path for path in FILES if part_of(path) != part]
    assert any(f"fairseq_el.{module}" in imports(path) for path in others)


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_library_code_does_not_print(path):
    calls = [node.func for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
    assert not any(isinstance(func, ast.Name) and func.id == "print" for func in calls)
