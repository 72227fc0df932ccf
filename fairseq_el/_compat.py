"""Versions of fairseq and torch, and paths of ``--user-dir``. fairseq is checked before anything else is imported."""

from __future__ import annotations

import importlib
import os
import re
import sys
from typing import List, Optional, Tuple

_NEW_PYTHON = (3, 11)  # the first that official fairseq can not be imported on


def install_command() -> str:
    """Returns the command that installs the fairseq that this Python needs."""
    if sys.version_info >= _NEW_PYTHON:
        return "pip install --no-build-isolation --no-deps fairseq-fixed==0.12.3.1 hydra-core==1.3.2 omegaconf==2.3.0"
    return "pip install 'pip<24.1' && pip install 'fairseq==0.12.2' 'numpy<1.24'"


def check_fairseq() -> str:
    """Imports fairseq and returns its directory.

    Raises:
        ImportError: fairseq is missing, does not work with this Python, or is another version than 0.12.2 or 0.12.3.
    """
    problem = _find_problem()
    if problem is not None:
        python = ".".join(map(str, sys.version_info[:2]))
        raise ImportError(
            f"fairseq_el needs fairseq 0.12.2 or 0.12.3, but {problem}. On Python {python}: {install_command()}"
        )
    return str(importlib.import_module("fairseq").__path__[0])


def _find_problem() -> Optional[str]:
    """Says what is wrong with the installed fairseq; None if nothing is."""
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


def is_own_command() -> bool:
    """Says whether this process is the command ``fairseq-el``, and not a program that uses the package."""
    return os.path.splitext(os.path.basename((sys.argv or [""])[0]))[0] == "fairseq-el"


def other_spellings(directory: str, fairseq_directory: str) -> List[str]:
    """Lists the other paths of this package that ``--user-dir`` may lead fairseq to.

    fairseq accepts a user directory that is imported already if its path, as text, is in the package's ``__path__``.
    The same directory can be named absolutely, through links, or as it is found beside fairseq.
    """
    name = os.path.basename(directory)
    candidates = [os.path.abspath(directory), os.path.realpath(directory)]
    candidates += [os.path.join(fairseq_directory, name), os.path.join(fairseq_directory, "..", name)]
    others = dict.fromkeys(path for path in candidates if path != directory)
    return [path for path in others if os.path.exists(path) and os.path.samefile(path, directory)]


def torch_version() -> Tuple[int, int]:
    """The first two numbers of torch's version: ``(2, 10)`` for ``2.10.0+cu128``."""
    import torch  # no earlier: where it is missing, check_fairseq says so

    major, minor = re.findall(r"\d+", torch.__version__)[:2]
    return int(major), int(minor)
