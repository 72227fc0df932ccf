"""Decoding with EL-attention: stand-ins for fairseq's modules, sharing its parameters, and what they keep."""

from fairseq_el.decoding.cross_attention import ELMultiheadAttention
from fairseq_el.decoding.decode_state import DecodeState
from fairseq_el.decoding.decoder import Features, can_share_past, decode_prompts, decode_step
from fairseq_el.decoding.enable import (
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
from fairseq_el.decoding.encoder import EncoderOut, NetInput, encode
from fairseq_el.decoding.encoder_output import SharedEncoderOut, share_encoder_out
from fairseq_el.decoding.linears import Linears, is_inference_only
from fairseq_el.decoding.self_attention import ELSelfAttention, KVSelfAttention
from fairseq_el.decoding.support import cross_attentions, unsupported_reasons

__all__ = [
    "BACKENDS",
    "DEFAULT_BACKEND",
    "DEFAULT_SELF_ATTENTION",
    "DecodeState",
    "ELMultiheadAttention",
    "ELSelfAttention",
    "EncoderOut",
    "Features",
    "KVSelfAttention",
    "Linears",
    "NetInput",
    "SharedEncoderOut",
    "backend_of",
    "can_share_past",
    "cross_attentions",
    "decode_prompts",
    "decode_step",
    "disable_el_attention",
    "el_attention_enabled",
    "enable_el_attention",
    "encode",
    "is_el_model",
    "is_inference_only",
    "models_in",
    "self_attention_of",
    "share_encoder_out",
    "unsupported_reasons",
]
