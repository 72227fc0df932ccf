"""What EL architectures can have beside fairseq's: a bias of the output projection, and the activation ``swish``."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional

from fairseq_el.errors import FairseqElError

OUTPUT_BIAS_HELP = (
    "give the output projection a bias, as Marian's models have it. Checkpoints that have one need --user-dir "
    "fairseq_el: fairseq's own models have none"
)


def with_extras(model: Any, args: Any) -> Any:
    """Adds what the settings ask for to a model of fairseq's, and returns it.

    With the setting ``output_bias`` the state dict has ``decoder.output_projection.bias`` of shape ``(V)``. With
    ``activation_fn`` ``swish``, layers get the function: fairseq 0.12 gives them a class, and fails in the first layer.

    Raises:
        FairseqElError: there is no output projection to have a bias.
    """
    if getattr(args, "output_bias", False):
        projection = model.decoder.output_projection
        if projection is None:
            raise FairseqElError(
                "--output-bias needs an output projection; with --adaptive-softmax-cutoff there is none"
            )
        projection.bias = nn.Parameter(torch.zeros(projection.out_features))
    for side in ("encoder", "decoder"):
        for layer in getattr(getattr(model, side, None), "layers", ()):
            if layer.activation_fn is nn.SiLU:
                layer.activation_fn = functional.silu
    return model


def add_output_bias(parser: Any) -> None:
    """Adds ``--output-bias`` to the options of a model without a dataclass."""
    parser.add_argument("--output-bias", action="store_true", help=OUTPUT_BIAS_HELP)
