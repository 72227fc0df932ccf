"""``--arch el_bart_base``, ``--arch el_bart_large``, ...: fairseq's BART, decoding with EL-attention."""

from __future__ import annotations

from typing import Any

from fairseq.models import register_model
from fairseq.models.bart import BARTModel

from fairseq_el.models.registration import register_el_architectures
from fairseq_el.modules import enable_el_attention


@register_model("el_bart")
class ELBARTModel(BARTModel):
    """Trains and loads as :class:`~fairseq.models.bart.BARTModel`; decodes with EL-attention."""

    @classmethod
    def build_model(cls, args: Any, task: Any) -> BARTModel:
        return enable_el_attention(super().build_model(args, task))


register_el_architectures("bart")
