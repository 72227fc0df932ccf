"""Blocking of repeated n-grams against its naive twin and against stock fairseq's."""

from __future__ import annotations

import pytest
import reference
import torch
from fairseq.ngram_repeat_block import NGramRepeatBlock
from hypothesis import given
from hypothesis import strategies as st

from fairseq_el.ops import block_in_place, block_repeated_ngrams
from fairseq_el.ops.ngram_block import block_everywhere

INF = float("inf")


@given(
    rows=st.integers(1, 5),
    length=st.integers(1, 12),
    ngram_size=st.integers(1, 5),
    num_words=st.integers(2, 6),
    seed=st.integers(0, 10**6),
)
def test_equals_its_twin(rows, length, ngram_size, num_words, seed):
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(0, num_words, (rows, length), generator=generator)
    scores = torch.randn(rows, num_words, generator=generator)
    scores[:, 0] = -INF  # what is forbidden already stays so
    expected = reference.block_repeated_ngrams(scores, tokens, ngram_size)
    assert torch.equal(block_repeated_ngrams(scores.clone(), tokens, ngram_size), expected)
    if length >= ngram_size:  # as on other devices
        assert torch.equal(block_everywhere(scores.clone(), tokens, ngram_size), expected)
    spare = torch.randint(0, num_words, (rows, 4), generator=generator)  # words that are not there yet
    step = torch.tensor([length - 1])
    assert torch.equal(block_in_place(scores.clone(), torch.cat([tokens, spare], dim=1), step, ngram_size), expected)
    assert torch.equal(block_in_place(scores.clone(), tokens, step, ngram_size), expected)


@pytest.mark.parametrize("ngram_size", [2, 3, 4])
def test_equals_stock_given_the_words_so_far(ngram_size):
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(0, 5, (40, 30), generator=generator)
    scores = torch.randn(40, 5, generator=generator)
    stock = NGramRepeatBlock(ngram_size, use_extension=False)
    expected = stock(tokens, scores.clone(), bsz=10, beam_size=4, step=29)
    assert expected.isinf().any() and not expected.isinf().all()
    assert torch.equal(block_repeated_ngrams(scores, tokens, ngram_size), expected)


def test_what_is_forbidden():
    """After ``a b c a b`` a trigram forbids ``c``, a bigram too, a single word everything that was written."""
    tokens = torch.tensor([[2, 5, 6, 7, 5, 6]])  # 2: the decoder's first symbol
    forbidden = {
        n: block_repeated_ngrams(torch.zeros(1, 9), tokens, n)[0].isinf().nonzero().view(-1) for n in (1, 2, 3)
    }
    assert forbidden[3].tolist() == [7]
    assert forbidden[2].tolist() == [7]
    assert forbidden[1].tolist() == [5, 6, 7]
