"""The compiled extension, if it belongs to this torch and to these sources; otherwise one line in the log."""

from __future__ import annotations

import importlib.util
import logging
import shutil
from pathlib import Path

import pytest
import torch

from fairseq_el import native
from fairseq_el.native import loading
from fairseq_el.native.file_name import file_stem

SUFFIX = loading.EXTENSION_SUFFIXES[0]
LOGGER = loading.__name__


@pytest.fixture(autouse=True)
def fresh(monkeypatch):
    """Nothing is loaded yet, and nothing said."""
    monkeypatch.delenv("FAIRSEQ_EL_NATIVE", raising=False)
    loading._load.cache_clear()
    loading._say_once.cache_clear()


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package with sources, which looks for its extension beside them."""
    (tmp_path / "csrc").mkdir()
    (tmp_path / "csrc" / "bindings.cpp").write_text("int x;\n")
    monkeypatch.setattr(loading, "_PACKAGE", tmp_path)
    return tmp_path


def lines(caplog):
    return [record.getMessage() for record in caplog.records if record.name == LOGGER]


@pytest.fixture
def compiled():
    module = native.extension()
    if module is None:
        pytest.skip("the extension is not compiled here (pip install -v --no-build-isolation --no-deps -e .)")
    return module


def test_the_switch_is_read_at_every_call(compiled, monkeypatch, caplog):
    caplog.set_level(logging.INFO, LOGGER)
    monkeypatch.setenv("FAIRSEQ_EL_NATIVE", "0")
    assert native.extension() is None and native.extension() is None
    monkeypatch.setenv("FAIRSEQ_EL_NATIVE", "1")
    assert native.extension() is compiled
    assert lines(caplog) == ["Native code is off, because FAIRSEQ_EL_NATIVE is 0."]


def test_another_value_of_the_switch(package, monkeypatch, caplog):
    caplog.set_level(logging.INFO, LOGGER)
    monkeypatch.setenv("FAIRSEQ_EL_NATIVE", "off")
    assert native.extension() is None
    assert lines(caplog)[0] == "FAIRSEQ_EL_NATIVE must be 0 or 1, but is 'off'; it counts as 1."


def test_nothing_is_compiled(package, caplog):
    caplog.set_level(logging.INFO, LOGGER)
    assert native.extension() is None and native.extension() is None
    assert lines(caplog) == [
        f"There is no native code, because the extension was not compiled for torch {torch.__version__}. Decoding "
        "works without it; to get it, in a checkout: pip install -v --no-build-isolation --no-deps -e ."
    ]


def test_one_of_another_torch_is_not_touched(package, caplog):
    caplog.set_level(logging.INFO, LOGGER)
    (package / f"{file_stem('1.0.0+other', package)}{SUFFIX}").write_text("would not load")
    assert native.extension() is None
    assert f"was not compiled for torch {torch.__version__}." in lines(caplog)[0]


def test_one_of_other_sources_is_not_touched(package, caplog):
    caplog.set_level(logging.INFO, LOGGER)
    (package / f"{file_stem(torch.__version__, package)}{SUFFIX}").write_text("would not load")
    (package / "csrc" / "bindings.cpp").write_text("int y;\n")
    assert native.extension() is None
    assert "was compiled from other sources or for another Python." in lines(caplog)[0]


def test_a_file_that_is_no_library(package, caplog):
    caplog.set_level(logging.INFO, LOGGER)
    (package / f"{file_stem(torch.__version__, package)}{SUFFIX}").write_text("not a library\n")
    assert native.extension() is None
    (line,) = lines(caplog)
    assert line.startswith("There is no native code, because the extension can't be loaded (ImportError: ")
    assert "pip install" in line and "\n" not in line


def test_a_library_that_is_another_module(package, caplog):
    """Symbols are missing: here, the function that makes the module."""
    origin = importlib.util.find_spec("_heapq").origin
    if not origin.endswith(SUFFIX):
        pytest.skip("this Python has its C modules built in")
    caplog.set_level(logging.INFO, LOGGER)
    shutil.copy(origin, package / f"{file_stem(torch.__version__, package)}{SUFFIX}")
    assert native.extension() is None
    assert "can't be loaded (ImportError: dynamic module does not define module export function" in lines(caplog)[0]


def test_a_library_is_loaded_once(compiled):
    """A second time, pybind11 would refuse to make its classes again."""
    loading._load.cache_clear()
    assert native.extension() is compiled


def test_files_beside_the_sources_do_not_count(package):
    before = file_stem(torch.__version__, package)
    (package / "csrc" / "bindings.cpp~").write_text("int z;\n")
    assert file_stem(torch.__version__, package) == before
    (package / "csrc" / "kernels.h").write_text("int z;\n")
    assert file_stem(torch.__version__, package) != before


def test_the_extension_uses_torchs_openmp(compiled):
    """g++'s other one would have threads of its own in the same process, which torch does not set."""
    assert b"libgomp" not in Path(compiled.__file__).read_bytes()
