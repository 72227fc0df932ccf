from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fairseq_el.ops import keep_rows, storage_bytes
from fairseq_el.ops.selected_rows import _AT_ONCE, Selection, index_dtype, products_with_rows, sum_of_rows


@given(
    sizes=st.tuples(st.integers(1, 3), st.integers(1, 20), st.integers(1, 5), st.integers(1, 6), st.integers(0, 7)),
    dtype=st.sampled_from([torch.int16, torch.int32, torch.int64]),
    seed=st.integers(0, 10**6),
)
def test_products_are_those_of_the_dense_matrix(sizes, dtype, seed):
    num_tables, num_rows, width, num_queries, k = sizes
    generator = torch.Generator().manual_seed(seed)
    where = torch.randint(num_rows, (num_tables, num_queries, k), generator=generator)  # a row may be taken twice
    table, vectors = (
        torch.randn(num_tables, n, width, dtype=torch.float64, generator=generator) for n in (num_rows, num_queries)
    )
    weights = torch.randn(where.shape, dtype=torch.float64, generator=generator)
    dense = weights.new_zeros(num_tables, num_queries, num_rows).scatter_add_(2, where, weights)
    given_where = where.to(dtype)
    torch.testing.assert_close(sum_of_rows(table, given_where, weights), dense @ table)
    products = (vectors @ table.transpose(1, 2)).gather(2, where)
    torch.testing.assert_close(products_with_rows(table, given_where, vectors), products)
    selection = Selection(given_where, num_rows)
    torch.testing.assert_close(selection.sum_of_queries(vectors, weights), dense.transpose(1, 2) @ vectors)
    assert torch.equal(given_where, where.to(dtype))


@pytest.mark.parametrize("length", [1, 1 << 15, (1 << 15) + 1, 1 << 31])
def test_indices_fit_their_type(length):
    assert torch.tensor(length - 1).to(index_dtype(length)).item() == length - 1


@given(
    st.lists(st.booleans(), min_size=1, max_size=40).filter(any), st.sampled_from([1, 3, _AT_ONCE // 32, _AT_ONCE // 4])
)
def test_keep_rows_as_index_select_in_the_same_storage(stays, width):
    tensor = torch.arange(float(len(stays))).unsqueeze(1).repeat(1, width)
    rows = torch.tensor([i for i, stay in enumerate(stays) if stay], dtype=torch.long)
    expected = tensor.index_select(0, rows)
    kept = keep_rows(tensor, rows)
    assert torch.equal(kept, expected)
    assert kept.data_ptr() == tensor.data_ptr() and storage_bytes(kept) == len(stays) * width * 4
