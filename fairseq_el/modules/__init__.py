"""Stand-ins for fairseq's modules, sharing its parameters."""

from fairseq_el.modules.decode_state import DecodeState
from fairseq_el.modules.el_multihead_attention import ELMultiheadAttention
from fairseq_el.modules.enable import (
    BACKENDS,
    DEFAULT_BACKEND,
    DEFAULT_SELF_ATTENTION,
    backend_of,
    disable_el_attention,
    el_attention_enabled,
    enable_el_attention,
    is_el_model,
    models_in,
    self_attention_of,
)
from fairseq_el.modules.enable_topk import disable_topk_attention, enable_topk_attention, topk_enabled
from fairseq_el.modules.encode import EncoderOut, NetInput, encode
from fairseq_el.modules.linears import Linears, is_final
from fairseq_el.modules.shared_decoder import Features, can_share_past, decode_prompts, decode_step
from fairseq_el.modules.shared_encoder_out import SharedEncoderOut, share_encoder_out
from fairseq_el.modules.shared_self_attention import ELSelfAttention, KVSelfAttention
from fairseq_el.modules.slim_decoder import SlimDecoder
from fairseq_el.modules.slim_loss import slim_cross_entropy
from fairseq_el.modules.support import cross_attentions, unsupported_reasons
from fairseq_el.modules.topk import ALL_PLACES, DEFAULT_QUERY_CHUNK, PLACES
from fairseq_el.modules.topk_options import TopkOptions, apply_topk

__all__ = [
    "ALL_PLACES",
    "BACKENDS",
    "DEFAULT_BACKEND",
    "DEFAULT_QUERY_CHUNK",
    "DEFAULT_SELF_ATTENTION",
    "PLACES",
    "DecodeState",
    "ELMultiheadAttention",
    "ELSelfAttention",
    "EncoderOut",
    "Features",
    "KVSelfAttention",
    "Linears",
    "NetInput",
    "SharedEncoderOut",
    "SlimDecoder",
    "TopkOptions",
    "apply_topk",
    "backend_of",
    "can_share_past",
    "cross_attentions",
    "decode_prompts",
    "decode_step",
    "disable_el_attention",
    "disable_topk_attention",
    "el_attention_enabled",
    "enable_el_attention",
    "enable_topk_attention",
    "encode",
    "is_el_model",
    "is_final",
    "models_in",
    "self_attention_of",
    "share_encoder_out",
    "slim_cross_entropy",
    "topk_enabled",
    "unsupported_reasons",
]
