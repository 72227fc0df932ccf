"""Checkpoints without what only training needs, and their means."""

from __future__ import annotations

import argparse

import pytest
import torch

from fairseq_el.conversion import Checkpoint, average, strip
from fairseq_el.errors import FairseqElError


def checkpoint(path="a.pt", **weights):
    state = {
        "args": None,
        "cfg": {"model": argparse.Namespace(arch="transformer"), "task": {"_name": "translation"}},
        "model": weights,
        "optimizer_history": [{"criterion_name": "C", "optimizer_name": "Adam", "num_updates": 7, "best_loss": 1.0}],
        "task_state": {"kept": 1},
        "extra_state": {"train_iterator": {"epoch": 3}},
        "last_optimizer_state": {"state": {0: torch.zeros(1000)}},
    }
    return Checkpoint(state, path)


def test_what_is_kept():
    mine = checkpoint(weight=torch.ones(2))
    state = strip(mine, None)
    assert state["model"] is mine.weights
    assert state["cfg"]["model"].arch == "transformer" and state["task_state"] == {"kept": 1}
    assert state["last_optimizer_state"] is None and state["extra_state"] == {}
    (history,) = state["optimizer_history"]
    assert history == {"criterion_name": "C", "optimizer_name": "Adam", "lr_scheduler_state": {}, "num_updates": 7}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_weights_in_another_dtype(dtype):
    shared = torch.tensor([1.0, 2.5])
    mine = checkpoint(a=shared, b=shared, version=torch.tensor([3.0]), count=torch.tensor([70000]))
    weights = strip(mine, dtype)["model"]
    assert weights["a"].dtype == weights["b"].dtype == dtype
    assert weights["a"].data_ptr() == weights["b"].data_ptr()
    assert weights["version"].dtype == torch.float32 and weights["count"].tolist() == [70000]


def test_a_weight_that_half_precision_can_not_hold():
    with pytest.raises(
        FairseqElError, match=r"largest number is 65504; a\.pt would lose w \(2 numbers, up to 1e\+05\).*--bf16"
    ):
        strip(checkpoint(w=torch.tensor([1.0, 1e5, -7e4]), inf=torch.tensor([float("inf")])), torch.float16)
    strip(checkpoint(w=torch.tensor([1e5])), torch.bfloat16)


def test_means():
    checkpoints = [checkpoint(str(i), w=torch.tensor([float(i), 1.0]), n=torch.tensor([2])) for i in (1, 2, 6)]
    average(checkpoints)
    assert checkpoints[-1].weights["w"].tolist() == [3.0, 1.0]
    assert checkpoints[-1].weights["n"].tolist() == [2]


def test_means_of_different_models_list_every_difference():
    one, two = (
        checkpoint("one.pt", a=torch.ones(2), b=torch.ones(1)),
        checkpoint("two.pt", a=torch.ones(3), c=torch.ones(1)),
    )
    two.state["cfg"]["model"].arch = "bart_base"
    with pytest.raises(FairseqElError) as error:
        average([one, two])
    for part in (
        "one.pt has architecture transformer, not bart_base",
        "b is in one.pt but not in two.pt",
        "c is in two.pt but not in one.pt",
        "a is (2,) in one.pt, not (3,)",
    ):
        assert part in str(error.value)


def test_shards_keep_what_puts_them_together():
    """fairseq's --checkpoint-shard-count needs it."""
    shard = checkpoint("model-shard0.pt", flat_param_0=torch.ones(4))
    shard.state["fsdp_metadata"] = {"param_metadata": [1]}
    assert strip(shard, torch.float16)["fsdp_metadata"] == {"param_metadata": [1]}
