"""Batches of fairseq's data sets, and their parts."""

from __future__ import annotations

from collections import OrderedDict

import torch

from fairseq_el.generation.batch import rows_of


def test_rows_of_whatever_a_batch_holds():
    sample = {
        "id": torch.arange(3),
        "nothing": None,
        "number": 7,
        "scalar": torch.tensor(5),
        "other": torch.zeros(4, 3),
        "texts": ["a", "b", "c"],
        "pair": (torch.arange(3), "x"),
        "net_input": OrderedDict(src_tokens=torch.arange(6).view(3, 2), features={"x": torch.zeros(3, 2, 2)}),
    }
    part = rows_of(sample, slice(1, 3), 3)
    assert part["id"].tolist() == [1, 2] and part["texts"] == ["b", "c"]
    assert part["pair"][0].tolist() == [1, 2] and part["pair"][1] == "x"
    assert part["net_input"]["src_tokens"].tolist() == [[2, 3], [4, 5]]
    assert part["net_input"]["features"]["x"].shape == (2, 2, 2)
    assert all(part[name] is sample[name] for name in ("nothing", "number", "scalar", "other"))
