"""Strips a checkpoint of what only training needs, averages several, and merges the shards of one."""

from __future__ import annotations

import re
from typing import Any, Dict, List, Optional, Sequence, Tuple

import torch
from torch import Tensor

from fairseq_el.conversion.checkpoint import BUFFERS, Checkpoint, State
from fairseq_el.conversion.limits import listed
from fairseq_el.errors import FairseqElError, OptionError

_SHOWN = 5
_SHARD = re.compile(r"-shard(\d+)\.pt$")


def strip(checkpoint: Checkpoint, dtype: Optional[torch.dtype]) -> State:
    """Returns what inference needs: weights, settings, the state of the task, and what merges shards.

    Args:
        dtype: of the weights (default: as they are).

    Raises:
        FairseqElError: a finite weight would be infinite in ``dtype``.
    """
    state = checkpoint.state
    kept: State = {name: state[name] for name in ("args", "cfg", "task_state", "fsdp_metadata") if name in state}
    kept["model"] = checkpoint.weights if dtype is None else _cast(checkpoint, dtype)
    kept["extra_state"] = {}
    # fairseq reads the last entry of this list from every checkpoint.
    history = (state.get("optimizer_history") or [{"criterion_name": "CrossEntropyCriterion"}])[-1]
    names = {name: history[name] for name in ("criterion_name", "optimizer_name") if name in history}
    kept["optimizer_history"] = [
        {"optimizer_name": "none", **names, "lr_scheduler_state": {}, "num_updates": history.get("num_updates", 0)}
    ]
    kept["last_optimizer_state"] = None
    return kept


def _cast(checkpoint: Checkpoint, dtype: torch.dtype) -> Dict[str, Tensor]:
    """Casts weights to another dtype; tensors that share storage go on sharing it."""
    cast: Dict[Any, Tensor] = {}
    weights: Dict[str, Tensor] = {}
    lost: List[str] = []
    for name, tensor in checkpoint.weights.items():
        if not tensor.is_floating_point() or name.endswith(BUFFERS):
            weights[name] = tensor
            continue
        key = (tensor.data_ptr(), tensor.shape, tensor.stride())
        if key not in cast:
            cast[key] = tensor.to(dtype)
            overflows = tensor.isfinite() & ~cast[key].isfinite()
            if overflows.any():
                lost.append(f"{name} ({int(overflows.sum())} numbers, up to {tensor[overflows].abs().max():.3g})")
        weights[name] = cast[key]
    if lost:
        raise FairseqElError(
            f"every weight must stay finite in {str(dtype)[len('torch.') :]}, whose largest number is "
            f"{torch.finfo(dtype).max:.5g}; {checkpoint.path} would lose {listed(lost, _SHOWN, ', ')}. "
            "Use --bf16, or keep the dtype"
        )
    return weights


def average(checkpoints: Sequence[Checkpoint]) -> None:
    """Gives the last checkpoint the mean of all weights, as fairseq's ``scripts/average_checkpoints.py`` computes it.

    Raises:
        FairseqElError: they do not have the same weights; every difference is named.
    """
    *others, last = checkpoints
    problems: List[str] = []
    for other in others:
        problems.extend(_differences(last, other))
    if problems:
        raise FairseqElError(
            f"checkpoints to average must have the same weights as {last.path}: {listed(problems, _SHOWN)}. "
            "Average checkpoints of one training run"
        )
    for name, tensor in last.weights.items():
        total = sum((other.weights[name].float() for other in checkpoints), torch.zeros((), dtype=torch.float32))
        mean = total / len(checkpoints) if tensor.is_floating_point() else total // len(checkpoints)
        last.state["model"][name] = mean.to(tensor.dtype)


def _differences(last: Checkpoint, other: Checkpoint) -> List[str]:
    found = []
    if other.arch != last.arch:
        found.append(f"{other.path} has architecture {other.arch}, not {last.arch}")
    for name in sorted(set(last.weights) ^ set(other.weights)):
        having, missing = (last, other) if name in last.weights else (other, last)
        found.append(f"{name} is in {having.path} but not in {missing.path}")
    for name in sorted(set(last.weights) & set(other.weights)):
        shapes = [tuple(checkpoint.weights[name].shape) for checkpoint in (other, last)]
        if shapes[0] != shapes[1]:
            found.append(f"{name} is {shapes[0]} in {other.path}, not {shapes[1]}")
    return found


def merge_shards(shards: Sequence[Checkpoint]) -> Checkpoint:
    """Returns the checkpoint of the first shard with the whole weights, as fairscale merges them.

    Args:
        shards: all shards of one checkpoint, in any order; their names end in ``-shard0.pt``, ``-shard1.pt``, ...

    Raises:
        OptionError: names do not number the shards from 0 on.
        FairseqElError: fairscale is not installed, or these are not all shards of one checkpoint.
    """
    ordered = _in_order(shards)
    problems = [f"{shard.path} has no fsdp_metadata" for shard in ordered if "fsdp_metadata" not in shard.state]
    problems += [f"{shard.path} is of {shard.arch}" for shard in ordered[1:] if shard.arch != ordered[0].arch]
    if problems:
        raise FairseqElError(
            f"--merge needs all shards of one checkpoint of fully sharded training, and {ordered[0].path} is of "
            f"{ordered[0].arch}: {'; '.join(problems)}"
        )
    first = ordered[0]
    first.state["model"] = _consolidated(ordered)
    del first.state["fsdp_metadata"]
    return first


def _in_order(shards: Sequence[Checkpoint]) -> List[Checkpoint]:
    numbered: List[Tuple[int, Checkpoint]] = []
    for shard in shards:
        match = _SHARD.search(shard.path)
        numbered.append((int(match[1]) if match else -1, shard))
    numbered.sort(key=lambda pair: pair[0])
    numbers = [number for number, _ in numbered]
    if numbers != list(range(len(shards))):
        raise OptionError(
            "--merge takes all shards of a checkpoint, whose names end in -shard0.pt, -shard1.pt and so on; got "
            f"{', '.join(shard.path for shard in shards)}"
        )
    return [shard for _, shard in numbered]


def _consolidated(shards: Sequence[Checkpoint]) -> dict:
    try:
        from fairscale.nn.data_parallel import FullyShardedDataParallel
    except ImportError as error:
        raise FairseqElError(f"--merge needs fairscale ({error}): pip install fairseq_el[shards]") from error
    weights = [shard.weights for shard in shards]
    metadata = [shard.state["fsdp_metadata"] for shard in shards]
    try:
        # fairscale lists buffers that no checkpoint has.
        present = [name for name in metadata[0]["buffer_names"] if name in weights[0]]
        metadata[0] = {**metadata[0], "buffer_names": present}
        whole: dict = FullyShardedDataParallel.consolidate_shard_weights(weights, metadata)
    except (AssertionError, KeyError, RuntimeError, TypeError, ValueError, IndexError) as error:
        raise FairseqElError(
            f"{len(shards)} shards do not make a whole: {type(error).__name__}: {error}. Give all shards of "
            f"the checkpoint that {shards[0].path} belongs to, and no others"
        ) from error
    return whole
