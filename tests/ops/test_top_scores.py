"""The best words of long rows."""

from __future__ import annotations

import pytest
import reference
import torch
from fairseq import utils
from hypothesis import given
from hypothesis import strategies as st

from fairseq_el.ops import largest, log_probabilities, top_of_rows, top_scores


@given(
    rows=st.integers(1, 4),
    columns=st.one_of(st.integers(20, 90), st.integers(1000, 9000)),
    k=st.integers(1, 20),
    forbidden=st.booleans(),
    bytes_in_cache=st.sampled_from([1, 2000, 1 << 21]),  # so few that rows are taken in parts
    seed=st.integers(0, 10**6),
)
def test_top_of_rows_is_topk(monkeypatch, rows, columns, k, forbidden, bytes_in_cache, seed):
    monkeypatch.setattr(top_scores, "_IN_CACHE", bytes_in_cache)
    scores = torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))
    if forbidden:
        scores[:, 3 : columns - 2] = float("-inf")  # fewer than k are left, at both ends
    values, found = top_of_rows(scores, k)
    assert torch.equal(values, reference.top_of_rows(scores, k))
    assert torch.equal(scores.gather(1, found), values)
    assert all(len(set(row)) == k for row in found.tolist())


@given(
    shape=st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(1, 300)),
    k=st.integers(1, 20),
    levels=st.integers(2, 1000),
    seed=st.integers(0, 10**6),
)  # few levels: many scores are equal
def test_largest_is_topk_without_its_order(shape, k, levels, seed):
    scores = torch.randint(levels, shape, generator=torch.Generator().manual_seed(seed)).double()
    values, places = largest(scores, k)
    expected = torch.topk(scores, min(k, shape[-1]))[0]
    assert torch.equal(values.sort(descending=True)[0], expected)
    assert torch.equal(scores.gather(-1, places), values)
    assert all(len(set(row)) == expected.size(-1) for row in places.flatten(0, 1).tolist())


@pytest.mark.parametrize("columns", [997, 4096, 50_264])
def test_equal_scores_are_all_found(columns):
    scores = torch.zeros(2, columns)
    scores[:, columns // 3] = scores[:, -1] = 1.0
    values, found = top_of_rows(scores, 5)
    assert values.tolist() == [[1, 1, 0, 0, 0]] * 2
    assert {columns // 3, columns - 1} <= set(found[0].tolist()) and len(set(found[0].tolist())) == 5


@given(
    rows=st.integers(1, 40),
    words=st.one_of(st.integers(1, 300), st.integers(5_000, 6_000)),
    spread=st.sampled_from([1e-3, 1.0, 50.0]),
    dtype=st.sampled_from([torch.float32, torch.float64, torch.bfloat16]),
    seed=st.integers(0, 10**6),
)
def test_log_probabilities_are_those_of_fairseq_to_the_last_bit(rows, words, spread, dtype, seed):
    logits = (spread * torch.randn(rows, 1, words, generator=torch.Generator().manual_seed(seed))).to(dtype)
    expected = utils.log_softmax(logits, dim=-1)[:, -1]
    with torch.no_grad():
        found = log_probabilities(logits.clone()[:, -1])
    assert found.dtype == torch.float32 and torch.equal(found, expected)
    assert torch.equal(log_probabilities(logits[:, -1]), expected)  # with gradients


def test_nan_in_a_row_of_logits_makes_all_of_it_nan():
    """Which is why a search need not look through all of a row for it."""
    logits = torch.randn(4, 99)
    logits[0, 5], logits[1, 98], logits[2] = float("nan"), float("inf"), float("-inf")
    with torch.no_grad():
        found = log_probabilities(logits).isnan()
    assert found.all(dim=1).tolist() == found.any(dim=1).tolist() == [True, True, True, False]
