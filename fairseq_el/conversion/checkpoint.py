"""Reads, checks and writes a fairseq checkpoint as it is in its file, and reads the dictionaries beside it."""

from __future__ import annotations

import argparse
import contextlib
import re
import zipfile
from pathlib import Path
from typing import Any, BinaryIO, Dict, List, Optional, Union

import torch
from fairseq.data import Dictionary
from omegaconf import DictConfig, read_write
from omegaconf.errors import OmegaConfBaseException
from torch import Tensor
from tqdm import tqdm

from fairseq_el.checkpoint_loading import load_listed_classes
from fairseq_el.errors import FairseqElError, shortened, summary_of
from fairseq_el.failure_report import explain_loading
from fairseq_el.files import require_file, write_whole

State = Dict[str, Any]
_SHOWN = 5
BUFFERS = ("version", "_float_tensor", "_future_mask")  # ends of names of tensors that are not weights
# Layers of fairseq 0.12.2's encoder hold all their weights a second time, for torch's fused encoder.
_SECOND_COPIES = re.compile(r"encoder\.layers\.\d+\.(in_proj|out_proj|fc1|fc2)_(weight|bias)")


class Checkpoint:
    """Holds what ``torch.load`` returns: a dictionary with ``model``, and settings in ``cfg`` or ``args``.

    Nothing is upgraded.

    Raises:
        FairseqElError: it is not a checkpoint of a fairseq model.
    """

    def __init__(self, state: State, path: str):
        self.state = state
        self.path = path
        problems = _content_problems(state)
        if problems:
            raise FairseqElError(
                f'{path} must be a checkpoint that fairseq wrote: a dictionary with weights in "model" and settings in '
                f'"cfg" or "args". {"; ".join(problems)}. Give one that fairseq-train wrote.'
            )

    @property
    def weights(self) -> Dict[str, Tensor]:
        return self.state["model"]

    def model_settings(self) -> List[Any]:
        """Lists every object with settings of the model: ``cfg["model"]``, and in older checkpoints ``args``."""
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


def _content_problems(state: Any) -> List[str]:
    """Lists everything that is not as fairseq writes it; the values of settings are not checked."""
    if not isinstance(state, dict):
        return [f"It holds a {type(state).__name__}"]
    return [*_weight_problems(state), *_setting_problems(state), *_history_problems(state)]


def _weight_problems(state: Dict[Any, Any]) -> List[str]:
    weights = state.get("model")
    if weights is None:
        return [f'It has no "model" but {", ".join(sorted(map(repr, state))[:_SHOWN]) or "nothing"}']
    if not isinstance(weights, dict) or not all(isinstance(value, Tensor) for value in weights.values()):
        return [f'Its "model" is a {type(weights).__name__}, not a dictionary of tensors']
    if not weights:
        return ['Its "model" is empty']
    unnamed = [name for name in weights if not isinstance(name, str)]
    if unnamed:
        return [f'Names in its "model" must be texts; one is {unnamed[0]!r}']
    odd = [name for name, tensor in weights.items() if not is_plain_tensor(tensor)]
    return [f"Its tensors must be plain numbers in memory; {', '.join(odd[:_SHOWN])} are not"] if odd else []


def is_plain_tensor(tensor: Any) -> bool:
    """Returns whether a tensor has all its numbers in memory: not sparse, quantized, expanded or on another device."""
    if (
        not isinstance(tensor, Tensor)
        or tensor.layout is not torch.strided
        or tensor.is_quantized
        or tensor.device.type != "cpu"
    ):
        return False
    return not any(stride == 0 and size > 1 for stride, size in zip(tensor.stride(), tensor.shape))


def _setting_problems(state: Dict[Any, Any]) -> List[str]:
    problems = []
    if not state.get("cfg") and not state.get("args"):
        problems.append('It has no "cfg" and no "args"')
    cfg = state.get("cfg")
    parts = {'"args"': state.get("args"), '"cfg"': cfg}
    if isinstance(cfg, (dict, DictConfig)):
        parts.update({f'"cfg.{name}"': cfg.get(name) for name in ("model", "task") if name in cfg})
    for name, part in parts.items():
        if part is not None and not isinstance(part, (dict, DictConfig, argparse.Namespace)):
            problems.append(f"Its {name} must be settings; it is {shortened(repr(part))}")
        elif part is not None and not all(isinstance(key, str) for key in _names(part)):
            problems.append(f"The settings in its {name} must have names that are texts")
    return problems


def _names(settings: Any) -> Any:
    return vars(settings) if isinstance(settings, argparse.Namespace) else settings.keys()


def _history_problems(state: Dict[Any, Any]) -> List[str]:
    """Lists what is wrong with ``optimizer_history``, whose last entry fairseq reads."""
    history = state.get("optimizer_history")
    if not history:
        return []
    if not isinstance(history, list) or not isinstance(history[-1], dict):
        return ['Its "optimizer_history" must be a list of dictionaries']
    updates = history[-1].get("num_updates", 0)
    if not isinstance(updates, int) or isinstance(updates, bool):
        return [f'"num_updates" in its "optimizer_history" must be a whole number; it is {shortened(repr(updates))}']
    return []


def parameters_of(weights: Dict[str, Tensor]) -> Dict[str, Tensor]:
    """Returns the weights without buffers, and without second copies."""
    return {
        name: tensor
        for name, tensor in weights.items()
        if not name.endswith(BUFFERS) and not _SECOND_COPIES.fullmatch(name)
    }


def get_setting(settings: Any, name: str) -> Any:
    """Returns a setting of a namespace or a dictionary; None if it does not exist, or refers to one that does not."""
    if isinstance(settings, argparse.Namespace):
        return getattr(settings, name, None)
    try:
        return None if settings is None else settings.get(name)
    except OmegaConfBaseException:
        return None


def set_setting(settings: Any, name: str, value: Any) -> None:
    """Changes a setting of a namespace or a dictionary, even of a read-only one."""
    if isinstance(settings, argparse.Namespace):
        setattr(settings, name, value)
        return
    with read_write(settings) if isinstance(settings, DictConfig) else contextlib.nullcontext():
        settings[name] = value


def load_checkpoint(path: str, option: str) -> Checkpoint:
    """Reads a checkpoint into memory.

    Args:
        option: the argument that names the file, for messages.

    Raises:
        OptionError: the file does not exist.
        FairseqElError: the file can't be read, is damaged, needs classes that fairseq does not write, or is not a
            checkpoint of a model.
    """
    require_file(path, f"{option} must be a checkpoint that fairseq wrote")
    check_sums(path)
    try:
        state = load_listed_classes(path)
    except Exception as error:
        raise FairseqElError(explain_loading(path, error)) from error
    return Checkpoint(state, path)


def has_sums(path: Union[str, Path]) -> bool:
    """Returns whether a file has checksums.

    Files of torch before 1.6 have none, and in files that were written without them all are 0.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            return any(record.CRC for record in archive.infolist())
    except (zipfile.BadZipFile, OSError, NotImplementedError):
        return False


def check_sums(path: Union[str, Path]) -> None:
    """Compares the checksums of a file, where it has them: a damaged number looks like any other when it is loaded.

    Raises:
        FairseqElError: a record does not hold what was written.
    """
    if not has_sums(path):
        return
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    except Exception as error:  # zipfile, zlib and struct each raise their own
        damaged = f"a record that can't be read ({type(error).__name__})"
    if damaged is not None:
        raise FairseqElError(
            f"{path} is damaged: the checksum of {damaged} is not that of what it holds. Compare the file's checksum "
            "with the original's, and copy it again"
        )


def save_checkpoint(state: State, path: Path, replace: bool = False) -> None:
    """Writes a checkpoint, with a progress bar; an unfinished file never has its name.

    Args:
        replace: whether a file of that name may be replaced.

    Raises:
        FairseqElError: a file of that name exists and may not be replaced.
    """
    size = sum(tensor.numel() * tensor.element_size() for tensor in state["model"].values())

    def write(unfinished: Path) -> None:
        with unfinished.open("wb") as file, tqdm(
            total=size, desc=f"writing {path.name}", unit="B", unit_scale=True, leave=False, disable=None
        ) as bar:
            counted: Any = _Counted(file, bar)
            try:
                torch.save(state, counted)
            except RuntimeError:  # torch raises it when a write fails, and does not say why
                if counted.error is None:
                    raise
                raise counted.error from None

    write_whole(path, write, replace)


class _Counted:
    """A file that tells a progress bar how many bytes are written to it."""

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


def dictionary_names(checkpoint: Checkpoint) -> List[str]:
    """Lists the files that fairseq's tasks read: ``dict.txt``, one for each language, and ``--fixed-dictionary``."""
    settings = [checkpoint.state.get("args"), get_setting(checkpoint.state.get("cfg"), "task")]
    names = ["dict.txt"]
    for name in ("source_lang", "target_lang"):
        languages = [get_setting(of, name) for of in settings if of is not None]
        names.extend(f"dict.{language}.txt" for language in languages if _is_name(language))
    for fixed in [get_setting(of, "fixed_dictionary") for of in settings if of is not None]:
        if isinstance(fixed, str) and _is_name(Path(fixed).name):
            names.append(Path(fixed).name)
    return list(dict.fromkeys(names))


def _is_name(language: Any) -> bool:
    """Returns whether a setting is a language that a file can be named for."""
    return isinstance(language, str) and re.fullmatch(r"[^/\0]{1,100}", language) is not None


def read_dictionary(path: Path) -> Dictionary:
    """Reads a dictionary.

    Raises:
        OptionError: the file does not exist.
        FairseqElError: the file is not a dictionary.
    """
    require_file(path, "a dictionary must be a file")
    try:
        return Dictionary.load(str(path))
    except Exception as error:  # fairseq raises its own, of many classes
        raise FairseqElError(
            f"{path} must be a dictionary, with a word and its count on each line, no word twice; "
            f"{summary_of(error)}. Copy it again from where the model was trained"
        ) from error
