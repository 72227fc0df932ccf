"""Steps that stay in place, against the loop's other steps: the same hypotheses, in float64 to the last bit or nearly.

Storage is smaller here than on a card, so that a batch of a few words runs through several sizes of it.
"""

from __future__ import annotations

import os
from collections import Counter

import pytest
import torch
from drawn_searches import check
from hypothesis import given, settings
from hypothesis import strategies as st
from native_cases import EXACT
from searches import in_place

from fairseq_el import policy
from fairseq_el.decoding.static_state import StaticTree
from fairseq_el.generation.static_history import History

CASES = int(os.environ.get("FAIRSEQ_EL_CASES", "100"))
SIZES = {"STEPS_OF_ROOM": [1, 2, 16], "LEAST_STATIC_ROWS": [1, 64], "LEAST_OUTPUT_ROWS": [1, 512]}


@pytest.fixture
def seen(monkeypatch):
    """Counts what happens to storage, and the steps in which hypotheses end."""
    counter = Counter()
    make_room, keep, add = StaticTree.make_room, StaticTree.keep, History.hypotheses

    def counted_room(tree, steps_left):
        is_new = make_room(tree, steps_left)
        counter["new storage" if is_new else "compactions"] += 1
        return is_new

    def counted_keep(tree, sentences):
        counter["fewer sentences"] += 1
        keep(tree, sentences)

    def counted_hypotheses(history):
        for sentence, found in add(history):
            counter[found["steps"]] += 1
            yield sentence, found

    monkeypatch.setattr(StaticTree, "make_room", counted_room)
    monkeypatch.setattr(StaticTree, "keep", counted_keep)
    monkeypatch.setattr(History, "hypotheses", counted_hypotheses)
    return counter


@pytest.mark.parametrize("of_language", [False, True], ids=["encoder-decoders", "language models"])
def test_random_models_and_options(of_language, seen):
    bit_equal = []

    @settings(max_examples=CASES)
    @given(data=st.data())
    def case(data):
        with pytest.MonkeyPatch.context() as patch:
            for name, sizes in SIZES.items():
                patch.setattr(policy, name, data.draw(st.sampled_from(sizes)))
            options = {"has_limits": False, "longest": 24, **EXACT}
            bit_equal.append(check(data, torch.float64, of_language, in_place, **options))

    case()
    assert sum(bit_equal) > len(bit_equal) / 2
    if CASES >= 100:  # the test has seen what it is for
        assert all(seen[name] > 10 for name in ("new storage", "compactions", "fewer sentences"))
        assert all(seen[step] > 0 for step in range(3, 16))
