"""Decoding with EL-attention: stand-ins for fairseq's modules, sharing its parameters, and what they keep."""

from fairseq_el.decoding.attention import (
    ELCrossAttention,
    ELSelfAttention,
    KVSelfAttention,
    ScoreLimit,
    class_without_el,
    set_class_without_el,
)
from fairseq_el.decoding.decode_state import DecodeState
from fairseq_el.decoding.decoder import (
    can_share_past,
    decode_in_place,
    decode_prompts,
    decode_step,
    embedded_positions,
)
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
from fairseq_el.decoding.encoder import NetInput, SharedEncoderOut, encode, is_plain_encoder, share_encoder_out
from fairseq_el.decoding.layers import drops_out, is_plain_decoder_layer
from fairseq_el.decoding.linears import Linears, has_hooks, is_inference_only, is_plain_linear, why_not_in_int8
from fairseq_el.decoding.speech_encoder import (
    SPEECH_DECODERS,
    SPEECH_MODELS,
    encoded_length,
    is_features,
    run_encoder,
)
from fairseq_el.decoding.static_state import StaticState
from fairseq_el.decoding.support import cross_attentions, unsupported_reasons

__all__ = [
    "BACKENDS",
    "DEFAULT_BACKEND",
    "DEFAULT_SELF_ATTENTION",
    "SPEECH_DECODERS",
    "SPEECH_MODELS",
    "DecodeState",
    "ELCrossAttention",
    "ELSelfAttention",
    "KVSelfAttention",
    "Linears",
    "NetInput",
    "ScoreLimit",
    "SharedEncoderOut",
    "StaticState",
    "backend_of",
    "can_share_past",
    "class_without_el",
    "cross_attentions",
    "decode_in_place",
    "decode_prompts",
    "decode_step",
    "disable_el_attention",
    "drops_out",
    "el_attention_enabled",
    "embedded_positions",
    "enable_el_attention",
    "encode",
    "encoded_length",
    "has_hooks",
    "is_el_model",
    "is_features",
    "is_inference_only",
    "is_plain_decoder_layer",
    "is_plain_encoder",
    "is_plain_linear",
    "models_in",
    "run_encoder",
    "self_attention_of",
    "set_class_without_el",
    "share_encoder_out",
    "unsupported_reasons",
    "why_not_in_int8",
]
