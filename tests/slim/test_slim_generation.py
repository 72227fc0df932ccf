"""Decoding a SLiM Performer: stock's generator and ours, with constant state, against no state at all."""

from __future__ import annotations

import argparse

import pytest
import torch
from fairseq.sequence_generator import SequenceGenerator
from tiny import (
    TinyELTask,
    assert_same_hypotheses,
    batch,
    build_language_model,
    build_slim_performer,
    dictionary,
    hypotheses,
)

from fairseq_el.ops import FEATURE_MAPS

WORDS = dictionary(11)
SAMPLE = batch(WORDS, [4, 3, 2, 1], seed=3)
PREFIX = torch.tensor([[4, 5, 6], [7, 8, 1], [9, 1, 1], [4, 4, 4]])  # padded at their ends


@pytest.mark.parametrize("name", FEATURE_MAPS)
@pytest.mark.parametrize("beam", [1, 4])
@pytest.mark.parametrize("prefix", [None, PREFIX], ids=["no prompts", "prompts"])
def test_hypotheses_are_those_of_a_parallel_pass_in_every_step(name, beam, prefix):
    models = [build_slim_performer(WORDS, seed=7, feature_map=name)]
    options = {"beam_size": beam, "max_len_b": 12}
    parallel = SequenceGenerator(models, WORDS, **options)
    parallel.model.has_incremental = False
    expected = hypotheses(parallel, models, SAMPLE, prefix_tokens=prefix)
    stock = hypotheses(SequenceGenerator(models, WORDS, **options), models, SAMPLE, prefix_tokens=prefix)
    task = TinyELTask(WORDS)
    mine = hypotheses(
        task.build_generator(models, argparse.Namespace(beam=beam, max_len_b=12)), models, SAMPLE, prefix_tokens=prefix
    )
    for found in (stock, mine):
        assert_same_hypotheses(found, expected, rel=1e-6)
    assert beam == 1 or len({tuple(tokens) for hypos in expected for tokens, _ in hypos}) > 2


def test_beside_a_transformer_in_an_ensemble():
    models = [build_slim_performer(WORDS, seed=7), build_language_model(WORDS, seed=8)]
    expected = hypotheses(
        SequenceGenerator(models, WORDS, beam_size=3, max_len_b=9), models, SAMPLE, prefix_tokens=PREFIX
    )
    task = TinyELTask(WORDS)
    mine = hypotheses(
        task.build_generator(models, argparse.Namespace(beam=3, max_len_b=9)), models, SAMPLE, prefix_tokens=PREFIX
    )
    assert [[tokens for tokens, _ in hypos] for hypos in mine] == [[t for t, _ in hypos] for hypos in expected]
