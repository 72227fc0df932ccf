"""The models that EL-attention decodes exactly, and the reasons why it refuses others."""

from __future__ import annotations

from typing import Any, Dict, List, Tuple

from fairseq.models import FairseqMultiModel
from fairseq.models.transformer import TransformerDecoderBase, TransformerEncoderBase
from fairseq.modules import MultiheadAttention
from torch import nn

from fairseq_el.decoding.attention import class_without_el
from fairseq_el.decoding.speech_encoder import SPEECH_DECODERS, SPEECH_ENCODERS, SPEECH_MODELS

DECODER_METHODS = ("forward", "extract_features", "extract_features_scriptable")
_DECODERS: Tuple[Any, ...] = (TransformerDecoderBase, *SPEECH_DECODERS)  # the latter return the same features
_ENCODERS: Tuple[Any, ...] = (TransformerEncoderBase, *SPEECH_ENCODERS)


def cross_attentions(model: nn.Module) -> Dict[str, MultiheadAttention]:
    """The encoder-decoder attention modules of a model's decoder, by name."""
    return {name: module for name, module in _attentions(model).items() if module.encoder_decoder_attention}


def self_attentions(model: nn.Module) -> Dict[str, MultiheadAttention]:
    """The self-attention modules of a model's decoder, by name."""
    return {name: module for name, module in _attentions(model).items() if module.self_attention}


def _attentions(model: nn.Module) -> Dict[str, MultiheadAttention]:
    decoder = getattr(model, "decoder", None)
    if not isinstance(decoder, nn.Module):
        return {}
    return {
        f"decoder.{name}": module for name, module in decoder.named_modules() if isinstance(module, MultiheadAttention)
    }


def unsupported_reasons(model: nn.Module) -> List[str]:
    """Everything that keeps EL-attention from decoding ``model`` exactly; empty when nothing does."""
    reasons = _pair_reasons(model) + _encoder_reasons(model) + _decoder_reasons(model)
    by_reason: Dict[str, List[str]] = {}  # the same reason in many layers is said once
    for name, attention in {**cross_attentions(model), **self_attentions(model)}.items():
        for reason in _attention_reasons(attention):
            by_reason.setdefault(reason, []).append(name)
    for reason, names in by_reason.items():
        others = f" and {len(names) - 1} more" if len(names) > 1 else ""
        reasons.append(f"{names[0]}{others}: {reason}")
    return reasons


def has_linear_attention(decoder: Any) -> bool:
    """Returns whether a decoder says that its attention is linear: it keeps sums of the past, not its words."""
    return getattr(decoder, "has_linear_attention", False)


def is_decoder_only(model: nn.Module) -> bool:
    """Returns whether a model is a language model: a decoder without an encoder."""
    return not hasattr(model, "encoder")


def stock_task_of(model: nn.Module) -> str:
    """The name of fairseq's task for models of this kind."""
    if is_decoder_only(model):
        return "language_modeling"
    if isinstance(model, FairseqMultiModel):
        return "multilingual_translation"
    of_speech = isinstance(model, SPEECH_MODELS) or type(model).__module__.startswith("fairseq.models.speech_to_text")
    return "speech_to_text" if of_speech else "translation"


def _pair_reasons(model: nn.Module) -> List[str]:
    if not isinstance(model, FairseqMultiModel) or len(model.keys) == 1:
        return []
    return [
        f"it holds {len(model.keys)} models, of {', '.join(model.keys)}, and decodes with the first; load it with "
        "--source-lang and --target-lang, which choose one"
    ]


def _encoder_reasons(model: nn.Module) -> List[str]:
    if is_decoder_only(model):
        return []
    encoder: Any = model.encoder
    known: Any = next((known for known in _ENCODERS if isinstance(encoder, known)), None)
    if known is None:
        return [
            f"its encoder is a {type(encoder).__name__}; only fairseq's TransformerEncoder and the encoders of "
            "s2t_transformer, s2t_conformer and convtransformer are supported"
        ]
    if type(encoder).reorder_encoder_out is not known.reorder_encoder_out:
        return [f"its encoder {type(encoder).__name__} has its own reorder_encoder_out, which EL-attention replaces"]
    return []


def _decoder_reasons(model: nn.Module) -> List[str]:
    decoder = getattr(model, "decoder", None)
    if not isinstance(decoder, nn.Module):
        return ["it has no decoder"]
    if has_linear_attention(decoder):
        return ["it is a SLiM Performer, which has no softmax attention and a decode state that does not grow anyway"]
    if not isinstance(decoder, TransformerDecoderBase):
        return [f"its decoder is a {type(decoder).__name__}; only fairseq's TransformerDecoder is supported"]
    reasons = [
        f"its decoder {type(decoder).__name__} has its own {method}, which may need encoder outputs of every beam"
        for method in DECODER_METHODS
        if getattr(type(decoder), method) not in [getattr(known, method) for known in _DECODERS]
    ]
    if decoder.cross_self_attention:
        reasons.append("--cross-self-attention joins encoder outputs to the decoder's own keys and values")
    if not is_decoder_only(model) and not cross_attentions(model):
        reasons.append("its decoder has no encoder-decoder attention (--no-cross-attention)")
    return reasons


def _attention_reasons(attention: MultiheadAttention) -> List[str]:
    reasons = []
    own_class = class_without_el(attention)
    if own_class is not MultiheadAttention and not vars(own_class).get("el_can_replace", False):
        reasons.append(f"it is a {own_class.__name__}; only fairseq's own MultiheadAttention is supported")
    if attention.use_xformers:
        reasons.append("it uses xformers attention (--encoder-xformers-att-config)")
    if attention.bias_k is not None or attention.bias_v is not None:
        reasons.append("add_bias_kv adds a key and a value that belong to no word")
    if attention.add_zero_attn:
        reasons.append("add_zero_attn adds a key and a value that belong to no word")
    for name in ("k_proj", "v_proj"):
        projection = getattr(attention, name)
        if type(projection) is not nn.Linear:
            reasons.append(
                f"{name} is a {type(projection).__name__}; EL-attention reads the weight of a plain nn.Linear "
                "(quantisation, --quant-noise-scalar, weight norm and adapters replace it)"
            )
        elif projection._forward_hooks or projection._forward_pre_hooks:
            reasons.append(
                f"{name} has forward hooks, which EL-attention would bypass (--quant-noise-pq sets one: load the "
                "checkpoint with --model-overrides \"{'quant_noise_pq': 0}\", it is only active in training)"
            )
    return reasons
