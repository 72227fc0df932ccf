"""Plain beam search against fairseq's ``BeamSearch``: the same candidates in the same order, equal scores included."""

from __future__ import annotations

import pytest
import torch
from fairseq.search import BeamSearch
from hypothesis import given
from hypothesis import strategies as st
from tiny import dictionary

from fairseq_el.generation.hypotheses import best_candidates


@given(
    sentences=st.integers(1, 4),
    beam=st.integers(1, 12),
    words=st.sampled_from([30, 60, 500, 2_000, 5_000]),  # sorted whole, or in groups; topk has two ways of its own
    levels=st.sampled_from([2, 10, 300, 1 << 30]),  # few: most scores are equal; many: none are
    forbidden=st.sampled_from([0.0, 0.5, 0.99]),
    first=st.booleans(),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    seed=st.integers(0, 10**6),
)
def test_is_what_beam_search_finds(sentences, beam, words, levels, forbidden, first, dtype, seed):
    search = BeamSearch(dictionary(words - 4))
    generator = torch.Generator().manual_seed(seed)
    log_probs = -torch.randint(levels, (sentences * beam, words), generator=generator).to(dtype) / 4
    log_probs[torch.rand(log_probs.shape, generator=generator) < forbidden] = float("-inf")
    scores = -torch.randint(levels, (sentences * beam,), generator=generator).to(dtype) / 8
    if beam > 2:
        scores.view(sentences, beam)[:, -1] = float("-inf")  # a beam that nobody would continue
    step, given_scores = (0, None) if first else (1, scores)
    expected = search.step(step, log_probs.view(sentences, beam, words), scores.view(sentences, beam, 1))
    found = best_candidates(log_probs.clone(), given_scores, search, beam)
    assert torch.equal(found.scores, expected[0])
    possible = expected[0] > float("-inf")  # no hypothesis ends with a score of minus infinity
    assert torch.equal(found.tokens[possible], expected[1][possible])
    assert torch.equal(found.beams[possible], expected[2][possible])


@pytest.mark.parametrize("first", [True, False])
def test_two_words_at_the_boundary(first):
    """Of several words with the score of the last candidate, those that stock takes."""
    search = BeamSearch(dictionary(996))
    log_probs = torch.full((2, 1000), -9.0)
    log_probs[:, [7, 500, 900]] = torch.tensor([-1.0, -2.0, -3.0])
    step, scores = (0, None) if first else (1, torch.tensor([0.0, -0.25]))
    expected = search.step(step, log_probs.view(1, 2, 1000), torch.tensor([0.0, -0.25]).view(1, 2, 1))
    found = best_candidates(log_probs, scores, search, 2)
    assert [tensor.tolist() for tensor in found] == [tensor.tolist() for tensor in expected]


def test_a_row_of_nan_counts_as_minus_infinity():
    """As stock, which replaces NaN first; here only where one is found among the best."""
    search = BeamSearch(dictionary(36))
    log_probs = torch.randn(6, 40, generator=torch.Generator().manual_seed(1))
    log_probs[1], log_probs[2] = float("nan"), log_probs[0]  # the third beam ties with the first
    scores = torch.zeros(6)
    cleaned = log_probs.masked_fill(log_probs.isnan(), float("-inf"))
    expected = search.step(1, cleaned.view(2, 3, 40), scores.view(2, 3, 1))
    found = best_candidates(log_probs, scores, search, 3)
    assert [tensor.tolist() for tensor in found] == [tensor.tolist() for tensor in expected]
