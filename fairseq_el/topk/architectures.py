"""Registered architectures ``topk_transformer*``, ``topk_bart_*``, ``topk_transformer_lm*``: fairseq's, with Top-k."""

# No postponed annotations here: fairseq reads the types of the fields.
from dataclasses import dataclass
from typing import Any

from fairseq.dataclass import FairseqDataclass
from fairseq.models import register_model
from fairseq.models.bart import BARTModel
from fairseq.models.transformer import TransformerModel
from fairseq.models.transformer_lm import TransformerLanguageModel, TransformerLanguageModelConfig

from fairseq_el.architectures import ModelWithOptions, register_architectures
from fairseq_el.errors import OptionError
from fairseq_el.topk.enable import TopkOptions, apply_topk


@dataclass
class TopkModelOptions(TopkOptions, FairseqDataclass):
    """The options of Top-k attention alone, for models that have no dataclass of their own."""


@dataclass
class TopkTransformerLanguageModelConfig(TopkOptions, TransformerLanguageModelConfig):
    """The settings of ``transformer_lm`` and those of Top-k attention."""


class _TopkModel(ModelWithOptions):
    options = TopkModelOptions
    saves_defaults = True

    @staticmethod
    def extended(model: Any, args: Any) -> Any:
        """Enables Top-k attention.

        Raises:
            OptionError: no K is given, or a value is out of range.
        """
        if getattr(args, "topk_attention", None) is None and getattr(args, "topk_ffn", None) is None:
            raise OptionError("An architecture topk_* needs --topk-attention K, --topk-ffn K or both; got neither")
        return apply_topk(model, args)


@register_model("topk_transformer")
class TopkTransformerModel(_TopkModel, TransformerModel):
    """Trains, scores and decodes as fairseq's ``TransformerModel``, over the k largest scores."""


@register_model("topk_bart")
class TopkBARTModel(_TopkModel, BARTModel):
    """Trains, scores and decodes as fairseq's ``BARTModel``, over the k largest scores."""


@register_model("topk_transformer_lm", dataclass=TopkTransformerLanguageModelConfig)
class TopkTransformerLanguageModel(_TopkModel, TransformerLanguageModel):
    """Trains, scores and decodes as fairseq's ``TransformerLanguageModel``, over the k largest scores."""


for _stock_model in ("transformer", "bart", "transformer_lm"):
    register_architectures(_stock_model, "topk")
