"""A fairseq checkpoint as it lies in its file."""

from __future__ import annotations

import argparse
import contextlib
import re
from pathlib import Path
from typing import Any, BinaryIO, Dict, List, Optional

import torch
from omegaconf import DictConfig, read_write
from omegaconf.errors import OmegaConfBaseException
from torch import Tensor
from tqdm import tqdm

from fairseq_el.checkpoint_loading import load_listed_classes
from fairseq_el.conversion.archive import check_sums
from fairseq_el.conversion.contents import content_problems
from fairseq_el.errors import FairseqElError
from fairseq_el.failure_report import explain_loading
from fairseq_el.files import require_file, write_whole

State = Dict[str, Any]
BUFFERS = ("version", "_float_tensor", "_future_mask")  # ends of names of tensors that are no weights
# Layers of fairseq 0.12.2's encoder hold all their weights a second time, for torch's fused encoder.
_SECOND_COPIES = re.compile(r"encoder\.layers\.\d+\.(in_proj|out_proj|fc1|fc2)_(weight|bias)")


class Checkpoint:
    """What ``torch.load`` gives, nothing upgraded: a dictionary with ``model`` and settings in ``cfg`` or ``args``.

    Raises:
        FairseqElError: it is no checkpoint of a fairseq model.
    """

    def __init__(self, state: State, path: str):
        self.state = state
        self.path = path
        problems = content_problems(state)
        if problems:
            raise FairseqElError(
                f'{path} must be a checkpoint that fairseq wrote: a dictionary with weights in "model" and settings in '
                f'"cfg" or "args". {"; ".join(problems)}. Give one that fairseq-train wrote.'
            )

    @property
    def weights(self) -> Dict[str, Tensor]:
        return self.state["model"]

    def model_settings(self) -> List[Any]:
        """Every object that has settings of the model: ``cfg["model"]``, and in older checkpoints ``args``."""
        found = [self.state.get("args")]
        if self.state.get("cfg"):
            found.append(self.state["cfg"].get("model"))
        return [settings for settings in found if settings is not None]

    @property
    def arch(self) -> str:
        for settings in self.model_settings():
            for name in ("arch", "_name"):
                value = get_setting(settings, name)
                if value is not None:
                    return str(value)
        raise FairseqElError(f"{self.path} must say its architecture in cfg.model or args; it has none")

    @property
    def task(self) -> str:
        of_task = get_setting(self.state.get("cfg"), "task")
        return str(get_setting(of_task, "_name") or get_setting(self.state.get("args"), "task") or "unknown")


def parameters_of(weights: Dict[str, Tensor]) -> Dict[str, Tensor]:
    """Without buffers, and without what is there twice."""
    return {
        name: tensor
        for name, tensor in weights.items()
        if not name.endswith(BUFFERS) and not _SECOND_COPIES.fullmatch(name)
    }


def get_setting(settings: Any, name: str) -> Any:
    """A setting out of a namespace or a dictionary; None if it is not there, or refers to what is not there."""
    if isinstance(settings, argparse.Namespace):
        return getattr(settings, name, None)
    try:
        return None if settings is None else settings.get(name)
    except OmegaConfBaseException:
        return None


def set_setting(settings: Any, name: str, value: Any) -> None:
    if isinstance(settings, argparse.Namespace):
        setattr(settings, name, value)
        return
    with read_write(settings) if isinstance(settings, DictConfig) else contextlib.nullcontext():
        settings[name] = value


def load_checkpoint(path: str, option: str) -> Checkpoint:
    """Reads a checkpoint into memory.

    Args:
        option: what named the file, for messages.

    Raises:
        OptionError: there is no such file.
        FairseqElError: it can't be read, is damaged, needs classes that fairseq does not write, or is no checkpoint.
    """
    require_file(path, f"{option} must be a checkpoint that fairseq wrote")
    check_sums(path)
    try:
        state = load_listed_classes(path)
    except Exception as error:
        raise FairseqElError(explain_loading(path, error)) from error
    return Checkpoint(state, path)


def save_checkpoint(state: State, path: Path, replace: bool = False) -> None:
    """Writes a checkpoint, with a progress bar; an unfinished file never has its name.

    Args:
        replace: whether a file of that name may be replaced.

    Raises:
        FairseqElError: there is one, and it may not.
    """
    size = sum(tensor.numel() * tensor.element_size() for tensor in state["model"].values())

    def write(unfinished: Path) -> None:
        with unfinished.open("wb") as file, tqdm(
            total=size, desc=f"writing {path.name}", unit="B", unit_scale=True, leave=False, disable=None
        ) as bar:
            counted: Any = _Counted(file, bar)
            try:
                torch.save(state, counted)
            except RuntimeError:  # torch's own about a write that failed, which does not say why
                if counted.error is None:
                    raise
                raise counted.error from None

    write_whole(path, write, replace)


class _Counted:
    """A file that tells a progress bar what is written to it."""

    def __init__(self, file: BinaryIO, bar: Any):
        self._file, self._bar = file, bar
        self.error: Optional[OSError] = None

    def write(self, data: Any) -> int:
        self._bar.update(len(data))
        try:
            return self._file.write(data)
        except OSError as error:
            error.filename = self._file.name
            self.error = error
            raise

    def flush(self) -> None:
        self._file.flush()
