"""The report says whether EL-attention ran with CUDA graphs."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from fairseq_el import policy
from fairseq_el.bench import Method, Settings
from fairseq_el.bench.report import _notes
from fairseq_el.generation import static_search


def notes_of(kind, device):
    method = Method(kind, "fp16")
    settings = Settings((method,), method, "data", "model.pt", device=device)
    return " ".join(_notes(settings, [SimpleNamespace(method=method)]))


@pytest.mark.parametrize("by_default", [True, False])
def test_whether_graphs_were_replayed(by_default, monkeypatch):
    monkeypatch.setattr(policy, "GRAPHS_BY_DEFAULT", by_default)
    monkeypatch.setattr(static_search, "why_no_graphs", lambda device: "")  # as with a torch that has them
    assert ("replays steps" in notes_of("el", "cuda")) is by_default
    assert ("without CUDA graphs" in notes_of("el", "cuda")) is not by_default
    assert "graphs" not in notes_of("stock", "cuda") + notes_of("el", "cpu")
