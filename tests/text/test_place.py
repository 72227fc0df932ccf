"""The card and the memory of one process among several."""

from __future__ import annotations

import pytest

from fairseq_el.text import Place, place, place_of


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, Place(0, 1)),
        ({"LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "4"}, Place(1, 4)),
        ({"SLURM_LOCALID": "2", "SLURM_NTASKS_PER_NODE": "8"}, Place(2, 8)),
        ({"SLURM_LOCALID": "2", "SLURM_NTASKS_PER_NODE": ""}, Place(2, 3)),  # at least
        ({"LOCAL_RANK": "0", "SLURM_LOCALID": "3"}, Place(0, 1)),  # torchrun in a task of srun
    ],
)
def test_what_launchers_say(environment, expected):
    assert place_of(environment) == expected


def test_each_takes_another_card(monkeypatch):
    taken = []
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setattr("torch.cuda.set_device", taken.append)
    for rank in range(4):
        Place(rank, 4).take_card()
    Place().take_card()  # leaves torch's choice
    assert taken == [0, 1, 0, 1]


def test_memory_is_shared(monkeypatch):
    monkeypatch.setattr(place, "free_memory", lambda device: 1000)
    monkeypatch.setattr(place, "process_memory", lambda device: 10)
    assert Place(1, 4).memory(on_card=False) == 260
    assert Place(1, 4).memory(on_card=True) is None and Place().memory(on_card=False) is None
