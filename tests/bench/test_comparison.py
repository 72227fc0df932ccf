"""What does not fit the model or the data set is refused before anything is timed."""

from __future__ import annotations

from dataclasses import replace

import pytest

from fairseq_el.bench import Method, Settings
from fairseq_el.bench.comparison import batch_specs, with_fair_blocking
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


def test_prompts_need_a_length(tiny_gpt):
    of_model = replace(settings(), data=str(tiny_gpt.data))
    with pytest.raises(OptionError, match="--src-len is needed with a language model"):
        batch_specs(of_model, FACTS)
    assert batch_specs(replace(of_model, src_lens=(4,)), FACTS) == [BatchSpec(16, 4)]


@pytest.mark.parametrize(
    ("device", "has_extension", "size"), [("cpu", False, 3), ("cuda", True, 3), ("cuda", False, 0)]
)
def test_ngrams_are_blocked_where_stock_can(device, has_extension, size):
    notes = []
    found = with_fair_blocking(settings(device=device, no_repeat_ngram_size=3), has_extension, notes)
    assert found.no_repeat_ngram_size == size and len(notes) == (size == 0)
    plain = settings(device=device)
    assert with_fair_blocking(plain, has_extension, notes) is plain and len(notes) == (size == 0)


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
