"""User directories of one's own: their import, and their tasks, decoding with EL-attention."""

from __future__ import annotations

import argparse
import os
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict

from fairseq import utils
from fairseq.tasks import TASK_DATACLASS_REGISTRY, TASK_REGISTRY, register_task

from fairseq_el.errors import OptionError, summary_of
from fairseq_el.tasks.el_options import ELOptions
from fairseq_el.tasks.el_task import ELTask

PREFIX = "el_"
_REGISTERED_BY_FAIRSEQ = ("tasks", "models")  # directories whose modules fairseq imports by itself


def import_user_directory(directory: str) -> None:
    """Imports a user directory as fairseq's ``--user-dir`` does: its ``__init__.py`` registers architectures and tasks.

    Raises:
        OptionError: there is no such directory, it registers nothing, it fails, or its name is another module's.
    """
    path = Path(directory)
    if path.exists() and not path.is_dir():
        raise OptionError(f"--user-dir must be a directory with a Python package; {directory} is a file")
    if path.is_dir() and not (path / "__init__.py").is_file() and not _has_modules(path):
        raise OptionError(
            f"--user-dir must have an __init__.py, which registers architectures and tasks; {directory} has none"
        )
    try:
        utils.import_user_module(argparse.Namespace(user_dir=directory))
    except FileNotFoundError as error:
        if path.is_dir():
            raise OptionError(_why_not_imported(directory, error)) from error
        raise OptionError(f"--user-dir must be a directory with a Python package; there is no {error}") from error
    except (Exception, SystemExit) as error:  # the user's own code
        if isinstance(error, ImportError) and str(error).startswith("Failed to import --user-dir"):
            raise OptionError(str(error)) from error
        raise OptionError(_why_not_imported(directory, error)) from error


def _has_modules(path: Path) -> bool:
    return any((path / name).is_dir() for name in _REGISTERED_BY_FAIRSEQ)


def _why_not_imported(directory: str, error: BaseException) -> str:
    own = os.path.realpath(directory) + os.sep
    frames = [f for f in traceback.extract_tb(error.__traceback__) if os.path.realpath(f.filename).startswith(own)]
    where = f", in line {frames[-1].lineno} of {frames[-1].filename}" if frames else ""
    said = summary_of(error).rstrip(".")
    advice = "Choose another name" if "duplicate" in said else "Mend it, or leave it out"
    return f"--user-dir must be a package that can be imported; {directory} fails{where}: {said}. {advice}"


def el_task_for(name: str) -> str:
    """The name of the task that does what another does, with EL-attention. For a task of the user's own it is made.

    Nothing of the user's is changed: ``el_NAME`` is a subclass of :class:`ELTask` and of the user's task, with the
    options of both.

    Args:
        name: a task. It is returned as it is if there is no other for it.
    """
    if PREFIX + name in TASK_REGISTRY:
        return PREFIX + name
    if not is_of_user(name) or issubclass(TASK_REGISTRY[name], ELTask):
        return name
    _register(PREFIX + name, TASK_REGISTRY[name], TASK_DATACLASS_REGISTRY.get(name))
    return PREFIX + name


def is_of_user(task: str) -> bool:
    """Returns whether a task is registered, and neither by fairseq nor by this package."""
    module = str(getattr(TASK_REGISTRY.get(task), "__module__", "fairseq"))
    return module.partition(".")[0] not in ("fairseq", "fairseq_el")


def _register(name: str, task: Any, config: Any) -> None:
    body: Dict[str, Any] = {"__doc__": f"{task.__name__}, decoding with EL-attention.", "__module__": __name__}
    el_config: Any = None
    if config is not None:
        el_config = dataclass(type(f"EL{config.__name__}", (ELOptions, config), {"__module__": __name__}))
    register_task(name, dataclass=el_config)(type(f"EL{task.__name__}", (ELTask, task), body))
