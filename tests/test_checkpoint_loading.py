from __future__ import annotations

import argparse
import collections
import os
import pickle

import numpy as np
import pytest
import torch
from damage import Hostile
from fairseq.checkpoint_utils import load_checkpoint_to_cpu
from fairseq.logging import meters
from omegaconf import OmegaConf

from fairseq_el._compat import torch_version
from fairseq_el.checkpoint_loading import refused_classes
from fairseq_el.failure_report import explain

pytestmark = pytest.mark.skipif(
    torch_version() < (2, 6),
    reason="torch.load refuses nothing by default before torch 2.6",
)


class OfTheUser:
    pass


def meter():
    result = meters.AverageMeter(round=2)
    result.update(3.0)
    return result


# what fairseq versions from 2018 to today have written into checkpoints, beside tensors
WRITTEN_BY_FAIRSEQ = {
    "args": argparse.Namespace(arch="transformer", lr=[0.1], data="bin"),
    "cfg": OmegaConf.create({"model": {"_name": "bart_large"}, "list": [1, "a", None, 2.0, True]}),
    "meters": collections.OrderedDict(train_loss=meter(), wps=meters.TimeMeter(), wall=meters.StopwatchMeter()),
    "numpy": {"best": np.float64(3.5), "updates": np.int64(7), "counts": np.array([1, 2, 3]), "f": np.float32(0.5)},
}


@pytest.mark.parametrize("name", WRITTEN_BY_FAIRSEQ)
@pytest.mark.parametrize("zipped", [True, False])
def test_loads_what_fairseq_writes(tmp_path, name, zipped):
    path = tmp_path / "checkpoint.pt"
    torch.save(
        {"model": {"w": torch.ones(2)}, "it": WRITTEN_BY_FAIRSEQ[name]}, path, _use_new_zipfile_serialization=zipped
    )
    loaded = torch.load(path)["it"]
    assert type(loaded) is type(WRITTEN_BY_FAIRSEQ[name])
    if name == "meters":
        assert loaded["train_loss"].avg == 3.0
    elif name != "numpy":
        assert loaded == WRITTEN_BY_FAIRSEQ[name]
    else:
        assert {key: np.asarray(value).tolist() for key, value in loaded.items()} == {
            key: np.asarray(value).tolist() for key, value in WRITTEN_BY_FAIRSEQ[name].items()
        }


def test_loads_meters_under_their_name_of_2019(tmp_path):
    """bart.large and its kin name the class fairseq.meters.AverageMeter."""
    path = tmp_path / "checkpoint.pt"
    meters.AverageMeter.__module__ = "fairseq.meters"
    try:
        torch.save({"it": meter()}, path)
    finally:
        meters.AverageMeter.__module__ = meters.__name__
    assert b"fairseq.meters" in path.read_bytes()
    assert torch.load(path)["it"].avg == 3.0


@pytest.mark.parametrize(("thing", "name"), [(Hostile(), f"{os.system.__module__}.system"), (OfTheUser(), "OfTheUser")])
def test_refuses_and_names_everything_else(tmp_path, thing, name):
    path = tmp_path / "checkpoint.pt"
    torch.save({"it": [OfTheUser(), thing]}, path)
    with pytest.raises(pickle.UnpicklingError) as refusal:
        torch.load(path)
    refused = refused_classes(str(path), refusal.value)
    assert any(name in refused_name for refused_name in refused)
    assert any("OfTheUser" in refused_name for refused_name in refused)  # all of them, not only the first


def test_only_errors_of_loading_a_checkpoint_are_explained(tmp_path, monkeypatch):
    with pytest.raises(RuntimeError) as error:
        raise RuntimeError("of the user")
    assert explain(error.value) is None

    (tmp_path / "empty.pt").touch()
    with pytest.raises(EOFError) as error:
        load_checkpoint_to_cpu(str(tmp_path / "empty.pt"))
    assert f"The checkpoint {tmp_path / 'empty.pt'} could not be read: EOFError" in explain(error.value)


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, MemoryError])
def test_an_interrupted_load_is_no_fault_of_the_checkpoint(tmp_path, monkeypatch, interruption):
    def interrupted(*args, **kwargs):
        raise interruption

    torch.save({"it": 1}, tmp_path / "checkpoint.pt")
    monkeypatch.setattr(torch.serialization, "_load", interrupted)
    with pytest.raises(interruption) as error:
        load_checkpoint_to_cpu(str(tmp_path / "checkpoint.pt"))
    assert explain(error.value) is None
