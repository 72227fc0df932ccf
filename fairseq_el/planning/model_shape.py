"""The shape of a model: the numbers that its memory depends on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn


@dataclass(frozen=True)
class ModelShape:
    """The shape of a fairseq Transformer.

    A language model has no encoder (``decoder_only``): the encoder's numbers are 0. An encoder without layers has a
    width, and its other numbers are 0.

    Attributes:
        parameters: numbers of all weights, shared ones counted once.
        pre_norm: layers normalise their input (``--encoder-normalize-before``). One more tensor is alive then.
        gelu: the activation is fairseq's GELU, which computes in float32, on copies.
        computes_embeddings: the decoder's embeddings are no table as they are (adaptive input,
            ``--decoder-input-dim``).
    """

    encoder_layers: int
    decoder_layers: int
    encoder_dim: int
    decoder_dim: int
    encoder_ffn_dim: int
    decoder_ffn_dim: int
    encoder_heads: int
    decoder_heads: int
    vocab_size: int
    parameters: int
    decoder_only: bool = False
    pre_norm: bool = False
    gelu: bool = False
    computes_embeddings: bool = False

    @property
    def encoder_head_width(self) -> int:
        return self.encoder_dim // max(self.encoder_heads, 1)

    @property
    def decoder_head_width(self) -> int:
        return self.decoder_dim // self.decoder_heads


def shape_of(model: Any) -> ModelShape:
    """The shape of a fairseq Transformer, BART or language model, read off its modules.

    Raises:
        ValueError: the model is built in another way.
    """
    encoder, decoder = getattr(model, "encoder", None), getattr(model, "decoder", None)
    try:
        first = decoder.layers[0]  # type: ignore[union-attr]
        in_encoder = encoder.layers[0] if encoder is not None and len(encoder.layers) > 0 else None
        return ModelShape(
            encoder_layers=0 if encoder is None else len(encoder.layers),
            decoder_layers=len(decoder.layers),  # type: ignore[union-attr]
            encoder_dim=0 if encoder is None else first.encoder_attn.kdim,
            decoder_dim=first.self_attn.embed_dim,
            encoder_ffn_dim=0 if in_encoder is None else in_encoder.fc1.weight.size(0),
            decoder_ffn_dim=first.fc1.weight.size(0),
            encoder_heads=0 if in_encoder is None else in_encoder.self_attn.num_heads,
            decoder_heads=first.self_attn.num_heads,
            vocab_size=_vocab_size(decoder),
            parameters=sum(parameter.numel() for parameter in model.parameters()),
            decoder_only=encoder is None,
            pre_norm=bool((in_encoder or first).normalize_before),
            computes_embeddings=decoder.project_in_dim is not None  # type: ignore[union-attr]
            or type(decoder.embed_tokens) is not nn.Embedding,  # type: ignore[union-attr]
            gelu="gelu" in getattr(first.activation_fn, "__name__", "").lower(),
        )
    except (AttributeError, IndexError, TypeError) as error:
        raise ValueError(
            f"{type(model).__name__} is not built like fairseq's Transformer (layers with self_attn and fc1): {error}"
        ) from error


def _vocab_size(decoder: Any) -> int:
    weight = getattr(decoder.embed_tokens, "weight", None)
    return len(decoder.dictionary) if weight is None else weight.size(0)  # adaptive inputs have several weights
