"""Checks made before anything else is imported, so that a broken installation is named in the first line."""

from __future__ import annotations

import importlib
import sys
from typing import Optional

NEW_PYTHON = (3, 11)  # official fairseq does not import from here on


def mend_command() -> str:
    """The command that installs the fairseq this Python needs."""
    if sys.version_info >= NEW_PYTHON:
        return "pip install --no-build-isolation --no-deps fairseq-fixed==0.12.3.1 hydra-core==1.3.2 omegaconf==2.3.0"
    return "pip install 'pip<24.1' && pip install 'fairseq==0.12.2' 'numpy<1.24'"


def check_fairseq() -> str:
    """Imports fairseq and returns its directory.

    Raises:
        ImportError: it is missing, does not work with this Python, or is another version than 0.12.2 or 0.12.3.
    """
    problem = _find_problem()
    if problem is not None:
        python = ".".join(map(str, sys.version_info[:2]))
        raise ImportError(
            f"fairseq_el needs fairseq 0.12.2 or 0.12.3, but {problem}. On Python {python}: {mend_command()}"
        )
    return str(importlib.import_module("fairseq").__path__[0])


def _find_problem() -> Optional[str]:
    try:
        fairseq = importlib.import_module("fairseq")
    except ModuleNotFoundError as error:
        return f"a module is not installed: {error.name}"
    except Exception as error:  # for example a ValueError in dataclasses: official fairseq on Python 3.11
        return f"the installed one can't be imported ({type(error).__name__}: {error})"
    version = str(getattr(fairseq, "__version__", "unknown"))
    if version.split(".")[:3] not in (["0", "12", "2"], ["0", "12", "3"]):
        return f"version {version} is installed ({fairseq.__file__})"
    return None
