"""How much memory is free: what torch's pool on a card keeps and no tensor uses, is."""

from __future__ import annotations

import types

import pytest
import torch
from tiny import build_model, dictionary

import fairseq_el
from fairseq_el.generation import backend_choice
from fairseq_el.planning import free_memory, process_memory

MIB = 1 << 20
CARD = 1000 * MIB


@pytest.fixture
def cards(monkeypatch):
    """Two cards of 1,000 MiB: sets what torch has taken of each, and what its tensors use of that."""
    pools = {0: (0, 0), 1: (0, 0)}
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda card=None: (CARD - pools[card or 0][0], CARD))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda card=None: pools[card or 0][0])
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda card=None: pools[card or 0][1])
    return pools


def test_torchs_pool_is_free_where_no_tensor_uses_it(cards):
    assert (free_memory("cuda"), process_memory("cuda")) == (CARD, 0)
    cards[0] = (700 * MIB, 200 * MIB)
    assert (free_memory("cuda"), process_memory("cuda")) == (800 * MIB, 200 * MIB)
    assert free_memory("cuda") + process_memory("cuda") == CARD  # what a process can use in all, weights included


def test_each_card_has_its_own(cards):
    cards[1] = (400 * MIB, 300 * MIB)
    assert (
        free_memory("cuda:0") == CARD and free_memory("cuda:1") == 700 * MIB and process_memory("cuda:1") == 300 * MIB
    )


def test_auto_has_as_much_for_later_batches_as_for_the_first(cards, monkeypatch):
    model = build_model("transformer", dictionary(), seed=1, dtype=torch.float32)
    fairseq_el.enable_el_attention(model, "auto")
    budgets = []

    def choose_backend(*arguments):
        budgets.append(arguments[-2])
        return types.SimpleNamespace(backend="el", reason="")

    monkeypatch.setattr(backend_choice, "choose_backend", choose_backend)
    monkeypatch.setattr(backend_choice, "_rates", lambda device, dtype: None)
    weight = types.SimpleNamespace(device=torch.device("cuda:1"), dtype=torch.float32)
    attention = types.SimpleNamespace(k_proj=types.SimpleNamespace(weight=weight), num_heads=2, embed_dim=8, kdim=8)
    monkeypatch.setattr(backend_choice, "cross_attentions", lambda model: {"": attention})
    weights = 100 * MIB
    for pool in (weights, 900 * MIB, 950 * MIB):  # torch gives nothing back between batches
        cards[1] = (pool, weights)
        backend_choice.choose_for_batch(model, 4, 2, 9, (1, 20), None)
    assert budgets == [450 * MIB] * 3
