"""The numbers of unusual models."""

from __future__ import annotations

import pytest
import torch
from tiny import build_model, dictionary
from torch import nn

from fairseq_el.planning import METHODS, Workload, memory, shape_of
from fairseq_el.tasks.el_task import set_dtype

WORDS = dictionary()


@pytest.mark.parametrize("method", METHODS)
def test_an_encoder_without_layers(method):
    model = build_model("transformer", WORDS, 1, encoder_layers=0, encoder_embed_dim=24)
    shape = shape_of(model)
    assert (shape.encoder_layers, shape.encoder_dim, shape.decoder_dim) == (0, 24, 16)
    work = Workload(4, 3, 8, 9, "fp32", 2048)
    assert memory(method, shape, work).cross_state >= 4 * 8 * 24 * 4


def test_a_model_without_parameters_takes_any_dtype():
    models = [nn.Module(), nn.Linear(2, 2)]
    set_dtype(models, "fp64")
    assert models[1].weight.dtype == torch.float64
