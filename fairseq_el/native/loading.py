"""The compiled extension, loaded if it belongs to this torch and to these sources. Nothing here raises."""

from __future__ import annotations

import functools
import importlib.util
import logging
import os
import sys
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from types import ModuleType
from typing import Optional

import torch

from fairseq_el.native.file_name import MODULE, file_stem

logger = logging.getLogger(__name__)

_PACKAGE = Path(__file__).resolve().parent.parent
_HOW = "Decoding works without it; to get it, in a checkout: pip install -v --no-build-isolation --no-deps -e ."


def extension() -> Optional[ModuleType]:
    """Returns the extension, or None with one log line that says why and how to get it.

    ``FAIRSEQ_EL_NATIVE=0`` switches it off; the variable is read at every call.
    """
    switch = os.environ.get("FAIRSEQ_EL_NATIVE", "1")
    if switch == "0":
        _say_once("Native code is off, because FAIRSEQ_EL_NATIVE is 0.")
        return None
    if switch not in ("", "1"):
        _say_once(f"FAIRSEQ_EL_NATIVE must be 0 or 1, but is {switch!r}; it counts as 1.")
    return _load(_PACKAGE)


@functools.lru_cache(maxsize=None)
def _say_once(line: str) -> None:
    logger.info(line)


@functools.lru_cache(maxsize=None)
def _load(package: Path) -> Optional[ModuleType]:
    try:
        stem = file_stem(torch.__version__, package)
        found = [path for suffix in EXTENSION_SUFFIXES for path in [package / (stem + suffix)] if path.is_file()]
        if not found:
            _say_once(f"There is no native code, because {_missing(package)}. {_HOW}")
            return None
        return _imported(found[0])
    except Exception as error:  # whatever a broken library or a directory without sources brings
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        _say_once(f"There is no native code, because the extension can't be loaded ({reason}). {_HOW}")
        return None


def _missing(package: Path) -> str:
    this = f"_native-torch-{torch.__version__}-"
    if any(path.name.startswith(this) for path in package.glob("_native-*")):
        return "the extension was compiled from other sources or for another Python"
    return f"the extension was not compiled for torch {torch.__version__}"


def _imported(path: Path) -> ModuleType:
    loaded = sys.modules.get(MODULE)
    if loaded is not None and loaded.__file__ == str(path):  # pybind11 refuses to make its classes again
        return loaded
    spec = importlib.util.spec_from_file_location(MODULE, path)
    assert spec is not None and spec.loader is not None  # for the suffixes that importlib itself lists
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    sys.modules[MODULE] = module
    return module
