"""Native code against the Python way, over random models and random options.

The Python way is held to stock by ``tests/generation``. ``FAIRSEQ_EL_CASES`` is the number of cases of one test there.
Here there are ten times as many, in float64 and in float32: by default 1,000 each, some minutes of one core in all.
"""

from __future__ import annotations

import os

import pytest
import torch
from drawn_searches import check
from hypothesis import given, settings
from hypothesis import strategies as st
from native_cases import EXACT
from searches import natively, skip_unless_compiled

skip_unless_compiled()

CASES = 10 * int(os.environ.get("FAIRSEQ_EL_CASES", "100"))


@pytest.mark.parametrize("of_language", [False, True], ids=["encoder-decoders", "language models"])
@settings(max_examples=CASES // 2)
@given(data=st.data())
def test_float64(of_language, data):
    check(data, torch.float64, of_language, natively, **EXACT)


@pytest.mark.parametrize("of_language", [False, True], ids=["encoder-decoders", "language models"])
@settings(max_examples=CASES // 2)
@given(data=st.data())
def test_float32(of_language, data):
    check(data, torch.float32, of_language, natively, rtol=1e-5, atol=2e-5)
