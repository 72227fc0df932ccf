"""What does not fit the model or the data set is refused before anything is timed."""

from __future__ import annotations

import pytest

from fairseq_el.bench import Method, Settings
from fairseq_el.bench.comparison import batch_specs
from fairseq_el.bench.settings import BatchSpec
from fairseq_el.errors import OptionError

STOCK = Method("stock", "fp32")
FACTS = {"sentences": 40, "max_source": 64, "max_target": 50}


def settings(**options) -> Settings:
    return Settings(methods=(STOCK,), baseline=STOCK, data="data-bin", path="model.pt", **options)


def test_every_combination():
    specs = batch_specs(settings(batches=(40, 1), src_lens=(8, 64)), FACTS)
    assert specs == [BatchSpec(40, 8), BatchSpec(1, 8), BatchSpec(40, 64), BatchSpec(1, 64)]
    assert batch_specs(settings(), FACTS) == [BatchSpec(16, 64)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batches": (16, 41)}, "--batch must be at most 40, which is how many sentences test has; got 41"),
        ({"src_lens": (65,)}, "--src-len must be from 2 to 64, what the model reads; got 65"),
        ({"src_lens": (1,)}, "--src-len must be from 2 to 64"),
        ({"tgt_len": 50}, "--tgt-len must be below 50, what the model writes; got 50"),
    ],
)
def test_what_does_not_fit(options, message):
    with pytest.raises(OptionError, match=message):
        batch_specs(settings(**options), FACTS)
