"""Stand-ins for fairseq's modules, sharing its parameters."""

from fairseq_el.modules.el_multihead_attention import ELMultiheadAttention
from fairseq_el.modules.enable import disable_el_attention, el_attention_enabled, enable_el_attention
from fairseq_el.modules.shared_encoder_out import SharedEncoderOut, share_encoder_out
from fairseq_el.modules.support import unsupported_reasons

__all__ = [
    "ELMultiheadAttention",
    "SharedEncoderOut",
    "disable_el_attention",
    "el_attention_enabled",
    "enable_el_attention",
    "share_encoder_out",
    "unsupported_reasons",
]
