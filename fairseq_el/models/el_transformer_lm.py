"""``--arch el_transformer_lm*``: fairseq's Transformer language model, decoding with EL-attention."""

from __future__ import annotations

from typing import Any

from fairseq.models import register_model
from fairseq.models.transformer_lm import TransformerLanguageModel, TransformerLanguageModelConfig

from fairseq_el.models.registration import register_el_architectures
from fairseq_el.modules import enable_el_attention


@register_model("el_transformer_lm", dataclass=TransformerLanguageModelConfig)
class ELTransformerLanguageModel(TransformerLanguageModel):
    """Trains and loads as fairseq's ``TransformerLanguageModel``; decodes with EL-attention."""

    @classmethod
    def build_model(cls, args: Any, task: Any) -> TransformerLanguageModel:
        return enable_el_attention(super().build_model(args, task))


register_el_architectures("transformer_lm")
