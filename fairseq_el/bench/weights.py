"""A fairseq BART model as Hugging Face's BartForConditionalGeneration has it: settings and names of weights."""

from __future__ import annotations

from typing import Any, Dict, List

import torch
from fairseq.modules import LearnedPositionalEmbedding
from torch import Tensor
from torch.nn import functional

from fairseq_el.errors import FairseqElError

_OFFSET = 2  # of learned positions: both programs leave the rows before it to padding


def bart_settings(model: Any) -> Dict[str, Any]:
    """Arguments of ``BartConfig``. The vocabulary stays as it is: ids are those of fairseq's dictionary.

    Raises:
        FairseqElError: the model is none that Hugging Face's BART can be; every reason is listed.
    """
    reasons = _differences(model)
    if reasons:
        raise FairseqElError(f"hf: only BART checkpoints can be converted, and this model has {'; '.join(reasons)}")
    words = model.encoder.dictionary
    settings: Dict[str, Any] = {
        "vocab_size": model.decoder.embed_tokens.num_embeddings,
        "d_model": model.encoder.embed_tokens.embedding_dim,
        "max_position_embeddings": _positions(model) - _OFFSET,
        "activation_function": _activation(model),
        "scale_embedding": model.encoder.embed_scale != 1.0,
        "dropout": 0.0,
        "bos_token_id": words.bos(),
        "pad_token_id": words.pad(),
        "eos_token_id": words.eos(),
        "decoder_start_token_id": words.eos(),
        "forced_bos_token_id": None,
        "forced_eos_token_id": None,
    }
    for side in ("encoder", "decoder"):
        layers = getattr(model, side).layers
        settings[f"{side}_layers"] = len(layers)
        settings[f"{side}_attention_heads"] = layers[0].self_attn.num_heads
        settings[f"{side}_ffn_dim"] = layers[0].fc1.weight.size(0)
    return settings


def bart_weights(model: Any, dtype: torch.dtype) -> Dict[str, Tensor]:
    """The state dict: both programs' layers go back to the same code, so names only get a prefix."""
    weights = {
        f"model.{name}": tensor.to(dtype)
        for name, tensor in model.state_dict().items()
        if name.startswith(("encoder.", "decoder.")) and not name.endswith(("version", "_float_tensor"))
    }
    for name in ("model.encoder.embed_positions.weight", "model.decoder.embed_positions.weight"):
        weights[name] = functional.pad(weights[name], (0, 0, 0, _positions(model) - weights[name].size(0)))
    words = weights["model.encoder.embed_tokens.weight"]
    weights["model.decoder.embed_tokens.weight"] = weights["model.shared.weight"] = words
    weights.pop("model.decoder.output_projection.weight", None)
    weights["lm_head.weight"] = words
    weights["final_logits_bias"] = words.new_zeros(1, words.size(0))
    return weights


def _positions(model: Any) -> int:
    """Hugging Face has one number for both sides; the side that has fewer gets zeros, which nothing ever reads."""
    return max(side.embed_positions.num_embeddings for side in (model.encoder, model.decoder))


def _activation(model: Any) -> str:
    return str(getattr(model.encoder.layers[0].activation_fn, "__name__", model.encoder.layers[0].activation_fn))


def _differences(model: Any) -> List[str]:
    encoder, decoder = model.encoder, model.decoder
    sides = (encoder, decoder)
    embedding = encoder.embed_tokens.weight
    checks = {
        "positions that are not learned": any(
            not isinstance(side.embed_positions, LearnedPositionalEmbedding) for side in sides
        ),
        "no layer norm of the embeddings": any(side.layernorm_embedding is None for side in sides),
        "layer norms before the blocks (--encoder-normalize-before)": any(
            side.layer_norm is not None or side.layers[0].normalize_before for side in sides
        ),
        "embeddings that are not all shared": not all(
            other.shape == embedding.shape and torch.equal(other, embedding)
            for other in (decoder.embed_tokens.weight, decoder.output_projection.weight)
        ),
        "encoder and decoder of different widths": decoder.project_in_dim is not None,
        f"the activation {_activation(model)}": _activation(model) not in ("gelu", "relu"),
    }
    return [reason for reason, differs in checks.items() if differs]
