"""``--arch el_transformer_lm*``: fairseq's Transformer language model, decoding with EL-attention."""

# No postponed annotations here: fairseq reads the types of the fields.
from dataclasses import dataclass, field
from typing import Any

from fairseq.models import register_model
from fairseq.models.transformer_lm import TransformerLanguageModel, TransformerLanguageModelConfig

from fairseq_el.architectures.output_bias import OUTPUT_BIAS_HELP, with_extras
from fairseq_el.architectures.registration import register_architectures
from fairseq_el.decoding import enable_el_attention


@dataclass
class ELTransformerLanguageModelConfig(TransformerLanguageModelConfig):
    """The settings of ``transformer_lm``, and those that only this package's models have."""

    output_bias: bool = field(default=False, metadata={"help": OUTPUT_BIAS_HELP})


@register_model("el_transformer_lm", dataclass=ELTransformerLanguageModelConfig)
class ELTransformerLanguageModel(TransformerLanguageModel):
    """Trains and loads as fairseq's ``TransformerLanguageModel``; decodes with EL-attention."""

    @classmethod
    def build_model(cls, args: Any, task: Any) -> TransformerLanguageModel:
        return enable_el_attention(with_extras(super().build_model(args, task), args))


register_architectures("transformer_lm", "el")
