"""Shards as fairseq's fully sharded training writes them, put together."""

from __future__ import annotations

import copy
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from tiny import build_model, dictionary

from fairseq_el.cli import main
from fairseq_el.conversion import Checkpoint, load_checkpoint, merge_shards
from fairseq_el.errors import FairseqElError, OptionError

NUM_SHARDS = 3


def model():
    return build_model("transformer", dictionary(), seed=1, dtype=torch.float32)


@pytest.fixture(scope="module")
def with_fairscale():
    """scripts/install.sh puts it into a directory of its own: fairseq imports it wherever it can, and it warns."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(Path(sys.prefix) / "fairscale"))
        pytest.importorskip("fairscale", reason="fairscale is not installed: pip install fairseq_el[shards]")
        yield


@pytest.fixture(scope="module")
def written(with_fairscale):
    """What fairseq's trainer puts into the files of its workers, each layer of the encoder wrapped by itself."""
    from fairscale.nn.data_parallel import FullyShardedDataParallel

    def wrap(module, rank):
        group = SimpleNamespace(rank=lambda: rank, size=lambda: NUM_SHARDS)
        return FullyShardedDataParallel(
            module, process_group=group, process_group_reduce_scatter=group, compute_device=torch.device("cpu")
        )

    states = []
    for rank in range(NUM_SHARDS):
        shard = model()
        for i, layer in enumerate(shard.encoder.layers):
            shard.encoder.layers[i] = wrap(layer, rank)
        shard = wrap(shard, rank)  # as fairseq's wrapper with --use-sharded-state
        weights, metadata = shard.local_state_dict(), shard.local_metadata_dict()
        states.append({"args": {"arch": "transformer"}, "model": weights, "fsdp_metadata": metadata})
    return states


def shards(states, *numbers):
    return [Checkpoint(copy.deepcopy(states[i]), f"best-shard{i}.pt") for i in numbers]


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1)])
def test_the_whole_is_the_model_that_was_cut(order, written):
    given = shards(written, *order)
    assert any("flat_param" in name for name in given[0].weights)
    whole = merge_shards(given)
    expected = model().state_dict()
    assert set(whole.weights) == set(expected) and "fsdp_metadata" not in whole.state
    assert all(torch.equal(whole.weights[name], weight) for name, weight in expected.items())


def test_the_command(written, tmp_path, capsys):
    names = [str(tmp_path / f"best-shard{i}.pt") for i in range(NUM_SHARDS)]
    for name, state in zip(names, written):
        torch.save(state, name)
    assert main(["convert", "strip", *names, "--merge", "--bf16", "--out", str(tmp_path / "best.pt")]) == 0
    assert capsys.readouterr().out.startswith(str(tmp_path / "best.pt"))
    weights = load_checkpoint(str(tmp_path / "best.pt"), "CKPT").weights
    expected = {k: v.bfloat16() if v.is_floating_point() else v for k, v in model().state_dict().items()}
    assert all(torch.equal(weights[name].to(tensor.dtype), tensor) for name, tensor in expected.items())


@pytest.mark.parametrize("numbers", [(0,), (0, 1)])
def test_not_all_shards(numbers, written):
    with pytest.raises(FairseqElError, match=rf"{len(numbers)} shards do not make a whole: .*Give all shards"):
        merge_shards(shards(written, *numbers))


@pytest.mark.parametrize("numbers", [(1, 2), (0, 0, 1), (0, 2)])
def test_names_that_do_not_number_them(numbers, written):
    with pytest.raises(OptionError, match=r"names end in -shard0\.pt, .*; got best-shard"):
        merge_shards(shards(written, *numbers))


def test_shards_of_something_else(written):
    given = shards(written, 0, 1, 2)
    del given[1].state["fsdp_metadata"]
    given[2].state["args"]["arch"] = "bart_large"
    with pytest.raises(
        FairseqElError, match=r"of transformer: best-shard1.pt has no fsdp_metadata; best-shard2.pt is of bart_large"
    ):
        merge_shards(given)


def test_without_fairscale(monkeypatch):
    state = {"args": {"arch": "transformer"}, "model": {"w": torch.ones(1)}, "fsdp_metadata": {}}
    monkeypatch.setitem(sys.modules, "fairscale.nn.data_parallel", None)
    with pytest.raises(FairseqElError, match=r"--merge needs fairscale .*: pip install fairseq_el\[shards\]"):
        merge_shards([Checkpoint(state, "best-shard0.pt")])
