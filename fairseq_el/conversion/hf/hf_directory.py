"""Reads a directory that Hugging Face's ``save_pretrained`` wrote: JSON and tensors, without ``transformers``."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, Dict, List

from torch import Tensor
from tqdm import tqdm

from fairseq_el.checkpoint_loading import load_listed_classes
from fairseq_el.conversion.checkpoint import check_sums, is_plain_tensor
from fairseq_el.errors import FairseqElError, OptionError, shortened
from fairseq_el.failure_report import explain_loading
from fairseq_el.files import read_json, require_file

CONFIG, GENERATION = "config.json", "generation_config.json"
SAFE, PICKLED = "model.safetensors", "pytorch_model.bin"
_INDEX = ".index.json"


class HFDirectory:
    """A directory with a Hugging Face model. ``config.json`` is read at once, weights by :meth:`tensors`.

    Raises:
        OptionError: the directory does not exist.
        FairseqElError: its ``config.json`` is missing or can't be read.
    """

    def __init__(self, path: Path):
        if not path.is_dir():
            raise OptionError(f"DIR must be a directory with a Hugging Face model; there is no directory {path}")
        self.path = path
        if not self.has(CONFIG):
            raise FairseqElError(
                f"DIR must be a directory with a Hugging Face model, as save_pretrained writes it; {path} has no "
                f"{CONFIG}. To convert a fairseq checkpoint use to-hf, to-el or strip"
            )
        self.config = {**read_json(path / CONFIG), **_special_ids(self.json(GENERATION))}

    def has(self, name: str) -> bool:
        """Returns whether something of that name exists, if only a broken link."""
        return os.path.lexists(self.path / name)

    def json(self, name: str) -> Dict[str, Any]:
        """Reads a file of settings; empty if there is none."""
        return read_json(self.path / name) if self.has(name) else {}

    def tensors(self) -> Dict[str, Tensor]:
        """Reads all weights, by their names.

        Raises:
            FairseqElError: there are none, or a file can't be read, does not hold tensors, or would run code.
        """
        for name in (SAFE, PICKLED):
            if self.has(name):
                return self._read([name])
            if self.has(name + _INDEX):
                shards = self.json(name + _INDEX).get("weight_map")
                if not isinstance(shards, dict) or not shards:
                    raise FairseqElError(f"{self.path / (name + _INDEX)} must have a weight_map of tensors to files")
                return self._read(sorted({shortened(str(name)) for name in shards.values()}))
        found = sorted(
            path.name for path in self.path.iterdir() if path.suffix in (".h5", ".msgpack", ".ckpt", ".gguf")
        )
        raise FairseqElError(
            f"{self.path} must have its weights in {SAFE} or {PICKLED} (or shards with {SAFE}{_INDEX}); it has "
            f"{', '.join(found) or 'none'}. Save the model again with transformers' save_pretrained"
        )

    def _read(self, names: List[str]) -> Dict[str, Tensor]:
        missing = [name for name in names if Path(name).name != name or not self.has(name)]
        if missing:
            raise FairseqElError(
                f"every shard that the index names must lie in {self.path}; missing: {', '.join(missing)}. Copy them "
                "again"
            )
        tensors: Dict[str, Tensor] = {}
        for name in tqdm(names, desc="reading weights", unit="file", leave=False, disable=None):
            path = self.path / name
            require_file(path, "weights must be in a file")
            tensors.update(_read_safetensors(path) if path.suffix == ".safetensors" else _read_pickle(path))
        return tensors


def _special_ids(generation: Dict[str, Any]) -> Dict[str, int]:
    """Finds the special tokens of generation_config.json, which generate() takes before those of config.json."""
    found = {}
    for name in ("pad_token_id", "eos_token_id", "decoder_start_token_id"):
        value = generation.get(name)
        value = value[0] if isinstance(value, list) and len(value) == 1 else value
        if type(value) is int and value >= 0:
            found[name] = value
    return found


def _read_safetensors(path: Path) -> Dict[str, Tensor]:
    load_file = safetensors_torch().load_file
    try:
        return load_file(str(path))
    except Exception as error:  # safetensors raises a class of its own, and others for what the disk does
        raise FairseqElError(explain_loading(str(path), error)) from error


def _read_pickle(path: Path) -> Dict[str, Tensor]:
    check_sums(path)
    try:
        state = load_listed_classes(path)
    except Exception as error:
        raise FairseqElError(explain_loading(str(path), error)) from error
    if not isinstance(state, dict) or not all(is_plain_tensor(value) for value in state.values()):
        what = f"a {type(state).__name__}" if not isinstance(state, dict) else "values that are no tensors"
        raise FairseqElError(f"{path} must hold a dictionary of tensors; it holds {what}")
    return {str(name): tensor for name, tensor in state.items()}


def safetensors_torch() -> Any:
    """Imports the module ``safetensors.torch``.

    Raises:
        FairseqElError: it is not installed.
    """
    try:
        import safetensors.torch
    except ImportError as error:
        raise FairseqElError(
            f"{SAFE} needs the package safetensors, which is not installed: pip install 'fairseq_el[hf]'"
        ) from error
    return safetensors.torch


def json_text(content: Dict[str, Any]) -> str:
    """Makes the text of a file of settings, as ``save_pretrained`` writes it."""
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"
