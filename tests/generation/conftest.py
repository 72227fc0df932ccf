from __future__ import annotations

import pytest
from searches import NOT_COMPILED

from fairseq_el import native
from fairseq_el.generation import ELSequenceGenerator


@pytest.fixture(params=["native", "python"])
def both_ways(request, monkeypatch):
    """A module that uses this runs twice: with native code where that is possible, and without.

    Native code records no attention, so the first time no generator does, unless it is asked to.
    """
    monkeypatch.setenv("FAIRSEQ_EL_NATIVE", "1" if request.param == "native" else "0")
    if request.param == "native":
        if native.extension() is None:
            pytest.skip(NOT_COMPILED)
        monkeypatch.setattr(ELSequenceGenerator, "record_attention", False)
