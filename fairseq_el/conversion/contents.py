"""What a checkpoint must hold, whoever made the file."""

from __future__ import annotations

import argparse
from typing import Any, Dict, List

import torch
from omegaconf import DictConfig
from torch import Tensor

from fairseq_el.errors import shortened

_SHOWN = 5


def content_problems(state: Any) -> List[str]:
    """Everything that is not as fairseq writes it; settings' own values are not looked at."""
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
    """Neither sparse, nor quantized, nor without storage, nor with fewer numbers than its shape says."""
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
    """``optimizer_history``; fairseq reads its last entry."""
    history = state.get("optimizer_history")
    if not history:
        return []
    if not isinstance(history, list) or not isinstance(history[-1], dict):
        return ['Its "optimizer_history" must be a list of dictionaries']
    updates = history[-1].get("num_updates", 0)
    if not isinstance(updates, int) or isinstance(updates, bool):
        return [f'"num_updates" in its "optimizer_history" must be a whole number; it is {shortened(repr(updates))}']
    return []
