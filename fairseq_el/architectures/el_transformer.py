"""``--arch el_transformer*``: fairseq's Transformer, decoding with EL-attention."""

from __future__ import annotations

from typing import Any

from fairseq.models import register_model
from fairseq.models.transformer import TransformerModel

from fairseq_el.architectures.output_bias import add_output_bias, with_extras
from fairseq_el.architectures.registration import register_architectures
from fairseq_el.decoding import enable_el_attention


@register_model("el_transformer")
class ELTransformerModel(TransformerModel):
    """Trains and loads as :class:`~fairseq.models.transformer.TransformerModel`; decodes with EL-attention."""

    @staticmethod
    def add_args(parser: Any) -> None:
        TransformerModel.add_args(parser)
        add_output_bias(parser)

    @classmethod
    def build_model(cls, args: Any, task: Any) -> TransformerModel:
        return enable_el_attention(with_extras(super().build_model(args, task), args))


register_architectures("transformer", "el")
