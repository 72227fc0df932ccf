"""``--arch topk_transformer*``, ``topk_bart_*``, ``topk_transformer_lm*``: fairseq's models, with Top-k attention."""

# No postponed annotations here: fairseq reads the types of the fields.
from dataclasses import dataclass
from typing import Any

from fairseq.dataclass import FairseqDataclass
from fairseq.dataclass.utils import gen_parser_from_dataclass
from fairseq.models import register_model
from fairseq.models.bart import BARTModel
from fairseq.models.transformer import TransformerModel
from fairseq.models.transformer_lm import TransformerLanguageModel, TransformerLanguageModelConfig

from fairseq_el.architectures.registration import register_architectures
from fairseq_el.errors import OptionError
from fairseq_el.topk.options import TopkOptions, apply_topk


@dataclass
class _CommandLine(TopkOptions, FairseqDataclass):
    """The options alone, for models that have no dataclass of their own."""


@register_model("topk_transformer")
class TopkTransformerModel(TransformerModel):
    """Trains, scores and decodes as fairseq's ``TransformerModel``, over the k largest scores."""

    @staticmethod
    def add_args(parser: Any) -> None:
        TransformerModel.add_args(parser)
        gen_parser_from_dataclass(parser, _CommandLine())

    @classmethod
    def build_model(cls, args: Any, task: Any) -> TransformerModel:
        return _with_topk(super().build_model(args, task), args)


@register_model("topk_bart")
class TopkBARTModel(BARTModel):
    """Trains, scores and decodes as fairseq's ``BARTModel``, over the k largest scores."""

    @staticmethod
    def add_args(parser: Any) -> None:
        BARTModel.add_args(parser)
        gen_parser_from_dataclass(parser, _CommandLine())

    @classmethod
    def build_model(cls, args: Any, task: Any) -> BARTModel:
        return _with_topk(super().build_model(args, task), args)


@dataclass
class TopkTransformerLanguageModelConfig(TopkOptions, TransformerLanguageModelConfig):
    """The settings of ``transformer_lm`` and those of Top-k attention."""


@register_model("topk_transformer_lm", dataclass=TopkTransformerLanguageModelConfig)
class TopkTransformerLanguageModel(TransformerLanguageModel):
    """Trains, scores and decodes as fairseq's ``TransformerLanguageModel``, over the k largest scores."""

    @classmethod
    def build_model(cls, args: Any, task: Any) -> TransformerLanguageModel:
        return _with_topk(super().build_model(args, task), args)


def _with_topk(model: Any, args: Any) -> Any:
    if getattr(args, "topk_attention", None) is None and getattr(args, "topk_ffn", None) is None:
        raise OptionError("An architecture topk_* needs --topk-attention K, --topk-ffn K or both; got neither")
    return apply_topk(model, args)


for _stock_model in ("transformer", "bart", "transformer_lm"):
    register_architectures(_stock_model, "topk")
