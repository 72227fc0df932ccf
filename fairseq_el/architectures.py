"""Registered architectures ``el_*``: fairseq's Transformer, BART and Transformer language model, with EL-attention.

``--arch el_transformer*``, ``--arch el_bart_*`` and ``--arch el_transformer_lm*`` train and load as fairseq's own
architectures and decode with EL-attention. They have two things that fairseq's lack: a bias of the output projection
(``--output-bias``), and the activation ``swish``.
"""

# No postponed annotations here: fairseq reads the types of the fields.
from dataclasses import dataclass, field
from typing import Any, Type

import torch
from fairseq.dataclass import FairseqDataclass
from fairseq.dataclass.utils import gen_parser_from_dataclass
from fairseq.models import (
    ARCH_CONFIG_REGISTRY,
    ARCH_MODEL_INV_REGISTRY,
    register_model,
    register_model_architecture,
)
from fairseq.models.bart import BARTModel
from fairseq.models.transformer import TransformerModel
from fairseq.models.transformer_lm import TransformerLanguageModel, TransformerLanguageModelConfig
from torch import nn
from torch.nn import functional

from fairseq_el.decoding import enable_el_attention
from fairseq_el.errors import FairseqElError

__all__ = [
    "ELBARTModel",
    "ELTransformerLanguageModel",
    "ELTransformerModel",
    "ModelWithOptions",
    "register_architectures",
]


class ModelWithOptions:
    """Mixin that gives one of fairseq's models more options, and extends the model that fairseq builds.

    Put it before the stock model: ``class MyModel(ModelWithOptions, BARTModel)``.

    Attributes:
        options: a dataclass of the options.
        saves_defaults: whether options that are not given are among a model's settings, with their defaults.
    """

    options: Type[FairseqDataclass]
    saves_defaults = False

    @classmethod
    def add_args(cls, parser: Any) -> None:
        """Adds the stock model's options and :attr:`options` to a command line."""
        super().add_args(parser)  # type: ignore[misc]
        # options that a dataclass of the model has added already are left out
        gen_parser_from_dataclass(parser, cls.options(), delete_default=not cls.saves_defaults)

    @classmethod
    def build_model(cls, args: Any, task: Any) -> Any:
        """Builds the stock model and extends it."""
        return cls.extended(super().build_model(args, task), args)  # type: ignore[misc]

    @staticmethod
    def extended(model: Any, args: Any) -> Any:
        """Extends a model in place as its settings ``args`` ask for it, and returns it."""
        raise NotImplementedError


def register_architectures(stock_model: str, prefix: str) -> None:
    """Registers ``<prefix>_<arch>`` for each ``<arch>`` of ``stock_model``, with the same default settings."""
    for arch in list(ARCH_MODEL_INV_REGISTRY[stock_model]):
        if f"{prefix}_{arch}" not in ARCH_CONFIG_REGISTRY:  # a model with a dataclass has one of its own name already
            register_model_architecture(f"{prefix}_{stock_model}", f"{prefix}_{arch}")(ARCH_CONFIG_REGISTRY[arch])


@dataclass
class ELModelOptions(FairseqDataclass):
    """The options that ``el_*`` architectures have beside fairseq's."""

    output_bias: bool = field(
        default=False,
        metadata={
            "help": "give the output projection a bias, as Marian's models have it. Checkpoints that have one need "
            "--user-dir fairseq_el: fairseq's own models have none"
        },
    )


@dataclass
class ELTransformerLanguageModelConfig(ELModelOptions, TransformerLanguageModelConfig):
    """The settings of ``transformer_lm``, and those of ``el_*`` architectures."""


class _ELModel(ModelWithOptions):
    options = ELModelOptions

    @staticmethod
    def extended(model: Any, args: Any) -> Any:
        """Adds what the settings ask for, and enables EL-attention.

        Raises:
            FairseqElError: there is no output projection to have a bias.
            UnsupportedModelError: EL-attention can't decode the model exactly.
        """
        if getattr(args, "output_bias", False):
            _add_output_bias(model)
        _correct_swish(model)
        return enable_el_attention(model)


@register_model("el_transformer")
class ELTransformerModel(_ELModel, TransformerModel):
    """Trains and loads as :class:`~fairseq.models.transformer.TransformerModel`; decodes with EL-attention."""


@register_model("el_bart")
class ELBARTModel(_ELModel, BARTModel):
    """Trains and loads as :class:`~fairseq.models.bart.BARTModel`; decodes with EL-attention."""


@register_model("el_transformer_lm", dataclass=ELTransformerLanguageModelConfig)
class ELTransformerLanguageModel(_ELModel, TransformerLanguageModel):
    """Trains and loads as fairseq's ``TransformerLanguageModel``; decodes with EL-attention."""


for _stock_model in ("transformer", "bart", "transformer_lm"):
    register_architectures(_stock_model, "el")


def _add_output_bias(model: Any) -> None:
    """Adds ``decoder.output_projection.bias`` of shape ``(V)`` to the parameters."""
    projection = model.decoder.output_projection
    if projection is None:
        raise FairseqElError("--output-bias needs an output projection; with --adaptive-softmax-cutoff there is none")
    projection.bias = nn.Parameter(torch.zeros(projection.out_features))


def _correct_swish(model: Any) -> None:
    """Gives layers with ``--activation-fn swish`` its function: fairseq 0.12 gives them a class, and fails."""
    for side in ("encoder", "decoder"):
        for layer in getattr(getattr(model, side, None), "layers", ()):
            if layer.activation_fn is nn.SiLU:
                layer.activation_fn = functional.silu
