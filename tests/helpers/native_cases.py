"""Models and generators for tests of native code."""

from __future__ import annotations

import logging
from typing import Any

import torch
from rounding import rounded_alike
from searches import in_python, natively
from tiny import batch, build_model, dictionary

import fairseq_el
from fairseq_el.generation import ELSequenceGenerator, choice

WORDS = dictionary()
EXACT = {"rtol": 0, "atol": 1e-10}
SOME = {"beam_size": 3, "max_len_b": 12}
LENGTHS = [5, 2, 7, 1]


def make(arch: str = "transformer", dtype: torch.dtype = torch.float64, words: Any = WORDS, **options: Any) -> Any:
    model = build_model(arch, words, 6, dtype, **options)
    return fairseq_el.enable_el_attention(model.requires_grad_(False))


def generator_of(model: Any, words: Any = WORDS, **options: Any) -> Any:
    generator = ELSequenceGenerator([model], words, **{**SOME, **options})
    generator.record_attention = False
    return generator


def both(generator: Any, sample: Any = None, **given: Any) -> list[Any]:
    """Hypotheses that native code finds, and the Python way."""
    sample = batch(WORDS, LENGTHS, seed=3) if sample is None else sample
    dtype, results = next(generator.model.models[0].parameters()).dtype, []
    for way in (natively, in_python):
        with way(), rounded_alike(dtype):
            results.append(generator.generate(list(generator.model.models), sample, **given))
    return results


def tokens(found: Any) -> Any:
    return [[h["tokens"].tolist() for h in hypotheses] for hypotheses in found]


def assert_same(found: Any, expected: Any, **tolerance: float) -> None:
    """The same hypotheses. Words may only differ where scores show a tie: at every rank they are the same.

    With ``rtol=0``, words may not differ.
    """
    if isinstance(expected, str) or isinstance(found, str):
        assert found == expected
        return
    assert [len(hypotheses) for hypotheses in found] == [len(hypotheses) for hypotheses in expected]
    for mine, theirs in zip(found, expected):
        is_same = [h["tokens"].tolist() for h in mine] == [h["tokens"].tolist() for h in theirs]
        assert is_same or tolerance["rtol"] > 0
        for my, their in zip(mine, theirs):
            torch.testing.assert_close(my["score"], their["score"], **tolerance)
            if is_same:
                torch.testing.assert_close(my["positional_scores"], their["positional_scores"], **tolerance)
                assert my["steps"] == their["steps"] and my["attention"].numel() == 0


def logged(monkeypatch: Any, caplog: Any, generator: Any, expected: Any = None, **given: Any) -> str:
    """What is said, once, about two batches that native code does not decode; they get the Python way's hypotheses."""
    monkeypatch.setattr(choice, "_logged", set())
    caplog.clear()
    models, sample = list(generator.model.models), batch(WORDS, LENGTHS, seed=3)
    with caplog.at_level(logging.INFO, logger=choice.__name__):
        found = [tokens(generator.generate(models, sample, **given)) for _ in range(2)]
    with in_python():
        assert found == [tokens(generator.generate(models, sample, **given))] * 2
    assert expected is None or found[0] == expected
    (message,) = [record.getMessage() for record in caplog.records if record.name == choice.__name__]
    return message.replace("A batch is not decoded by NativeSearch: ", "")
