"""Decisions of setup.py about the extension. Nothing is compiled."""

from __future__ import annotations

import os
import runpy
import shutil
import sys
import sysconfig

import pytest
from commands import REPOSITORY


@pytest.fixture
def run_setup(monkeypatch, capsys):
    """Runs setup.py; what it passes to setuptools, its own names, and what it says."""
    given = {}
    monkeypatch.setattr("setuptools.setup", lambda **arguments: given.update(arguments))
    monkeypatch.delenv("FAIRSEQ_EL_NATIVE", raising=False)

    def run(command="bdist_wheel"):
        given.clear()
        monkeypatch.setattr(sys, "argv", ["setup.py", command])
        names = runpy.run_path(str(REPOSITORY / "setup.py"))
        return dict(given), names, capsys.readouterr().out

    return run


@pytest.mark.parametrize(
    ("platform", "levels"),
    [
        ("linux-x86_64", ["plain", "avx2", "avx512"]),
        ("macosx-11.0-x86_64", ["plain", "avx2", "avx512"]),
        ("macosx-11.0-universal2", ["plain"]),
        ("linux-aarch64", ["plain"]),
    ],
)
def test_levels(run_setup, monkeypatch, platform, levels):
    monkeypatch.setattr(sysconfig, "get_platform", lambda: platform)
    _, names, _ = run_setup("egg_info")
    assert list(names["LEVELS"]) == levels
    assert names["MACROS"] == ([("FAIRSEQ_EL_X86", "1")] if len(levels) == 3 else [])
    assert not any("native" in flag for flags in names["LEVELS"].values() for flag in [*flags, *names["FLAGS"]])


def test_the_extension(run_setup):
    if shutil.which(os.environ.get("CXX", "c++")) is None:
        pytest.skip("there is no C++ compiler")
    arguments, names, said = run_setup()
    (extension,) = arguments["ext_modules"]
    assert extension.name == "fairseq_el._native" and extension.optional
    assert "fairseq_el/csrc/bindings.cpp" in extension.sources and names["KERNELS"] not in extension.sources
    assert "without its native code" not in said


@pytest.mark.parametrize(
    ("variable", "value", "reason"),
    [
        ("FAIRSEQ_EL_NATIVE", "0", "FAIRSEQ_EL_NATIVE is 0"),
        ("CXX", "no-such-c++", "there is no C++ compiler 'no-such-c++'; install one or set CXX"),
    ],
)
def test_reasons_not_to_compile(run_setup, monkeypatch, variable, value, reason):
    monkeypatch.setenv(variable, value)
    arguments, _, said = run_setup()
    assert "ext_modules" not in arguments
    assert said == f"fairseq_el is installed without its native code: {reason}\n"


def test_without_torch(run_setup, monkeypatch):
    monkeypatch.setenv("CXX", sys.executable)  # anything that is there
    monkeypatch.setitem(sys.modules, "torch", None)
    arguments, _, said = run_setup()
    assert "ext_modules" not in arguments
    assert said.count("\n") == 1 and "torch can't be imported (ModuleNotFoundError: " in said
    assert "--no-build-isolation" in said


def test_commands_that_compile_nothing(run_setup, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    arguments, _, said = run_setup("egg_info")
    assert "ext_modules" not in arguments and said == ""
