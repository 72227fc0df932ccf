"""Converts a fairseq BART model in memory to Hugging Face's ``BartForConditionalGeneration``."""

from __future__ import annotations

from typing import Any, Dict, List, Optional, Tuple

import torch
from fairseq.modules import LearnedPositionalEmbedding
from torch import Tensor
from torch.nn import functional

from fairseq_el.conversion.checkpoint import parameters_of
from fairseq_el.conversion.hf.families import BART, ModelSizes
from fairseq_el.conversion.hf.model_config import config_of
from fairseq_el.conversion.hf.vocabulary import EOS, Vocabulary
from fairseq_el.conversion.hf.weights import FIRST_POSITION, hf_tensors
from fairseq_el.errors import FairseqElError


def bart_to_hf(model: Any, dtype: Optional[torch.dtype] = None) -> Tuple[Dict[str, Any], Dict[str, Tensor]]:
    """Returns the arguments of ``BartConfig`` and the state dict of a fairseq BART model.

    Ids stay those of fairseq's dictionary. Tensors of the state dict that are tied are one tensor. They share their
    memory with the model where neither the dtype nor the layout has to change.

    Args:
        model: a model of fairseq, as ``load_model_ensemble`` returns it.
        dtype: of the tensors (default: as they are).

    Raises:
        FairseqElError: Hugging Face's BART can't compute the same; every reason is listed.
    """
    reasons = _differences(model)
    if reasons:
        raise FairseqElError(f"only BART checkpoints can be converted, and this model has {'; '.join(reasons)}")
    sizes, words = _sizes(model), model.encoder.dictionary
    given = parameters_of(model.state_dict())
    for name in (f"{side}.embed_positions.weight" for side in BART.sides):
        # Hugging Face has one number of positions for both sides. The side with fewer gets zeros, which are never read.
        missing = sizes.positions + FIRST_POSITION - given[name].size(0)
        given[name] = functional.pad(given[name], (0, 0, 0, missing))
    same_ids = Vocabulary(list(words.symbols), list(range(sizes.vocab)), EOS)
    tensors = hf_tensors(given, BART, sizes, same_ids)
    if dtype is not None:
        tensors = {name: tensor.to(dtype) for name, tensor in tensors.items()}
    tensors.update(dict.fromkeys(BART.tied(), tensors[BART.embedding]))
    config = {
        **config_of(BART, sizes),
        "bos_token_id": words.bos(),
        "pad_token_id": words.pad(),
        "eos_token_id": words.eos(),
        "decoder_start_token_id": words.eos(),
        "forced_bos_token_id": None,
        "forced_eos_token_id": None,
    }
    return config, tensors


def _sizes(model: Any) -> ModelSizes:
    """Reads the sizes off the modules: options of a command line may have changed the settings of the checkpoint."""
    sides = {side: getattr(model, side) for side in BART.sides}
    vocab, d = model.encoder.embed_tokens.weight.shape
    return ModelSizes(
        d,
        {side: len(module.layers) for side, module in sides.items()},
        {side: module.layers[0].self_attn.num_heads for side, module in sides.items()},
        {side: module.layers[0].fc1.weight.size(0) for side, module in sides.items()},
        max(module.embed_positions.num_embeddings for module in sides.values()) - FIRST_POSITION,
        vocab,
        _activation(model),
        model.encoder.embed_scale != 1.0,
        (0.0, 0.0, 0.0),
    )


def _activation(model: Any) -> str:
    function = model.encoder.layers[0].activation_fn
    return str(getattr(function, "__name__", function))


def _differences(model: Any) -> List[str]:
    """Lists everything in which a model differs from Hugging Face's BART."""
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
