"""``--arch el_transformer*``: fairseq's Transformer, decoding with EL-attention."""

from __future__ import annotations

from typing import Any

from fairseq.models import register_model
from fairseq.models.transformer import TransformerModel

from fairseq_el.models.registration import register_el_architectures
from fairseq_el.modules import enable_el_attention


@register_model("el_transformer")
class ELTransformerModel(TransformerModel):
    """Trains and loads as :class:`~fairseq.models.transformer.TransformerModel`; decodes with EL-attention."""

    @classmethod
    def build_model(cls, args: Any, task: Any) -> TransformerModel:
        return enable_el_attention(super().build_model(args, task))


register_el_architectures("transformer")
