from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from fairseq_el.ops import keep_rows, storage_bytes
from fairseq_el.ops.keep_rows import _AT_ONCE


@given(
    st.lists(st.booleans(), min_size=1, max_size=40).filter(any), st.sampled_from([1, 3, _AT_ONCE // 32, _AT_ONCE // 4])
)
def test_as_index_select_in_the_same_storage(stays, width):
    tensor = torch.arange(float(len(stays))).unsqueeze(1).repeat(1, width)
    rows = torch.tensor([i for i, stay in enumerate(stays) if stay], dtype=torch.long)
    expected = tensor.index_select(0, rows)
    kept = keep_rows(tensor, rows)
    assert torch.equal(kept, expected)
    assert kept.data_ptr() == tensor.data_ptr() and storage_bytes(kept) == len(stays) * width * 4
