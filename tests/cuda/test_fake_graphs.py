"""A step that stays in place, on tensors without numbers: what a CUDA graph may not hold would raise an error.

No card is needed. :func:`fake_card` says which device it is.
"""

from __future__ import annotations

import pytest
import torch

from fairseq_el._compat import torch_version

if torch_version() < (2, 10):
    pytest.skip("torch 2.10 is the oldest on which fake tensors of a card were tried", allow_module_level=True)

from fake_steps import BART_LARGE, Launches, fake_card, fake_search

# Launches of a step, all others as here, before there were steps that stay in place (commit cf8cc48).
BEFORE = {("el", "kv"): 398, ("el", "el"): 468, ("shared-kv", "kv"): 302, ("shared-kv", "el"): 372}
LIMITS = [(1, 5), (4, 20), (2, 9)]
OPTIONS = {
    "plain": {},
    "trigrams": {"no_repeat_ngram_size": 3},
    "words": {"no_repeat_ngram_size": 1, "temperature": 0.7, "unk_penalty": 1.0},
    "limits": {"limits": LIMITS, "tokens_to_suppress": ("w3",)},
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("architecture", ["transformer", "bart_base", "transformer_lm"])
@pytest.mark.parametrize("self_attention", ["kv", "el"])
@pytest.mark.parametrize("backend", ["el", "shared-kv"])
def test_every_step_is_the_same_work_and_leaves_no_storage(backend, self_attention, architecture, options):
    """No wait for the device, no shape that depends on numbers: both would raise. What remains is told of here."""
    with fake_card() as device, torch.no_grad():
        search = fake_search(device, architecture, backend, self_attention, **options)
        search.in_place()  # makes joined weights and masks of the source, as the step before a capture does
        storage = storages(search)
        works = []
        for _ in range(3):
            with Launches() as launches:
                search.in_place()
            works.append(launches.found)
        assert works[0] == works[1] == works[2] and len(works[0]) > 50
        assert storages(search) == storage
    assert [t.device.type for t in (search.in_place.integers, search.state.tree.hidden)] == [device.type] * 2


def test_waits_would_be_noticed():
    with fake_card() as device:
        tensor = torch.zeros(3, dtype=torch.long, device=device)
        for wait in (lambda: bool(tensor.any()), lambda: tensor.tolist(), lambda: tensor.nonzero()):
            with pytest.raises((RuntimeError, NotImplementedError)):
                wait()


def test_new_storage_would_be_noticed():
    with fake_card() as device, torch.no_grad():
        search = fake_search(device, "transformer")
        search.in_place()
        storage = storages(search)
        search.state.tree.hidden = search.state.tree.hidden.clone()
        assert storages(search) != storage


@pytest.mark.parametrize(("backend", "self_attention"), BEFORE)
def test_a_step_of_bart_large_has_fewer_launches(backend, self_attention):
    with fake_card() as device, torch.no_grad():
        shape = {"num_sentences": 16, "src_len": 1024, "num_words": 50_260, "sizes": BART_LARGE, "padded": False}
        search = fake_search(device, "transformer", backend, self_attention, **shape)
        search.present_step(1)
        counts = []
        for step in (lambda: search.present_step(2), search.in_place, search.in_place):
            with Launches() as launches:
                step()
            counts.append(len(launches.found))
    present, _, in_place = counts
    before = BEFORE[backend, self_attention]
    assert in_place < present <= before
    assert in_place <= (0.8 if self_attention == "kv" else 0.9) * before


def storages(search):
    """All tensors that the search has from step to step."""
    found, seen = set(), set()

    def look(value):
        if isinstance(value, torch.Tensor):
            found.add(id(value))
        elif isinstance(value, (list, tuple)):
            for item in value:
                look(item)
        elif isinstance(value, dict):
            look(list(value.values()))
        elif type(value).__module__.startswith("fairseq_el") and id(value) not in seen:
            seen.add(id(value))
            look(getattr(value, "__dict__", {}))

    look([search.in_place, search.state])
    assert len(found) > 10
    return found
