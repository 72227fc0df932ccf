"""Merges the shards of fully sharded training (``--ddp-backend fully_sharded --use-sharded-state``)."""

from __future__ import annotations

import re
from typing import List, Sequence, Tuple

from fairseq_el.conversion.checkpoint import Checkpoint
from fairseq_el.errors import FairseqElError, OptionError

_NUMBER = re.compile(r"-shard(\d+)\.pt$")


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
        match = _NUMBER.search(shard.path)
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
        # Buffers that no checkpoint has are listed all the same.
        present = [name for name in metadata[0]["buffer_names"] if name in weights[0]]
        metadata[0] = {**metadata[0], "buffer_names": present}
        whole: dict = FullyShardedDataParallel.consolidate_shard_weights(weights, metadata)
    except (AssertionError, KeyError, RuntimeError, TypeError, ValueError, IndexError) as error:
        raise FairseqElError(
            f"{len(shards)} shards do not make a whole: {type(error).__name__}: {error}. Give all shards of "
            f"the checkpoint that {shards[0].path} is of, and of no other"
        ) from error
    return whole
