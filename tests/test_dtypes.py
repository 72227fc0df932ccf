"""The table of number formats, and where a model computes."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from fairseq_el.dtypes import DTYPES, dtype_name, place_of, supported_dtype


@pytest.mark.parametrize("name", DTYPES)
def test_the_table(name):
    dtype = DTYPES[name]
    assert dtype_name(dtype.torch_dtype) == name
    assert torch.empty(0, dtype=dtype.torch_dtype).element_size() == dtype.num_bytes
    usable, reason = supported_dtype(name, "cpu")
    assert usable in (name, "fp32") and bool(reason) == (usable != name)


def test_where_a_model_is():
    assert place_of(nn.Linear(2, 2).to(torch.float64)) == (torch.device("cpu"), torch.float64)
    only_buffers = nn.Module()
    only_buffers.register_buffer("count", torch.zeros(1, dtype=torch.long))
    only_buffers.register_buffer("mean", torch.zeros(1, dtype=torch.float16))
    assert place_of(only_buffers) == (torch.device("cpu"), torch.float16)
    assert place_of(nn.Module()) == (torch.device("cpu"), torch.float32)
