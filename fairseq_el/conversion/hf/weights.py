"""Converts all tensors of a model between the names and rows of both programs. No number is changed."""

from __future__ import annotations

from typing import Dict, List, Optional, Tuple

import numpy as np
import torch
from torch import Tensor

from fairseq_el.conversion.hf.families import Family, ModelSizes, layer_tensors
from fairseq_el.conversion.hf.vocabulary import EOS, Vocabulary
from fairseq_el.conversion.limits import listed
from fairseq_el.errors import FairseqElError

Weights = Dict[str, Tensor]
Shapes = Dict[str, Tuple[int, ...]]

ABSENT_BIAS = -1e4  # for symbols that the model does not have: probability 0 in every format, finite in fp16
FIRST_POSITION = 2  # of fairseq's learned positions: padding's index and one more
_BIAS = "final_logits_bias"
# Of old files: no weights. Both programs compute the positions of M2M-100 anew.
_BUFFERS = (".attn.bias", ".attn.masked_bias", "coder.version", "embed_positions.weights")


def sinusoids(count: int, d: int) -> Tensor:
    """Computes the positions of Marian and Pegasus as Hugging Face does, bit by bit. *Shape:* ``(count, d)``."""
    angles = np.arange(count)[:, None] / np.array([np.power(10000, 2 * (j // 2) / d) for j in range(d)])
    table = torch.empty(count, d)
    half = (d + 1) // 2
    table[:, :half] = torch.FloatTensor(np.sin(angles[:, 0::2]))
    table[:, half:] = torch.FloatTensor(np.cos(angles[:, 1::2]))
    return table


def check_tensors(tensors: Weights, family: Family, sizes: ModelSizes, path: object) -> Weights:
    """Gives the tensors of a file their full names, and leaves out the copies of tied weights.

    Raises:
        FairseqElError: some are missing, of another shape, or unknown, or tied weights differ; every one is named.
    """
    prefix = family.base_prefix
    if not any(name.startswith(prefix) for name in tensors):  # a file of the bare model
        tensors = {name if name in ("lm_head.weight", _BIAS) else prefix + name: t for name, t in tensors.items()}
    tensors = {name: tensor for name, tensor in tensors.items() if not name.endswith(_BUFFERS)}
    if family.embedding not in tensors:  # files may keep any of the names that share one tensor
        for name in family.tied():
            if name in tensors:
                tensors[family.embedding] = tensors[name]
                break
    needed, optional = _expected_shapes(family, sizes)
    problems = [f"{name} is missing" for name in needed if name not in tensors]
    for name, tensor in tensors.items():
        shape = needed.get(name, optional.get(name))
        if shape is None:
            problems.append(f"{name} {tuple(tensor.shape)} is unknown")
        elif not tensor.is_floating_point():
            problems.append(f"{name} must have floating-point numbers; it has {str(tensor.dtype)[len('torch.') :]}")
        elif tuple(tensor.shape) != shape:
            problems.append(f"{name} must be {shape} by config.json; it is {tuple(tensor.shape)}")
        elif name in family.tied() and family.embedding in tensors and not _same(tensor, tensors[family.embedding]):
            problems.append(f"{name} must be the same as {family.embedding} (tie_word_embeddings); it differs")
    if problems:
        raise FairseqElError(
            f"the weights in {path} must be those of a {family.name} model of config.json's sizes: "
            f"{listed(problems)}. Copy weights and config.json of one model"
        )
    return {name: tensor for name, tensor in tensors.items() if name not in family.tied()}


def _expected_shapes(family: Family, sizes: ModelSizes) -> Tuple[Shapes, Shapes]:
    """Returns the shapes of the tensors that a file must have, and of those that it may have."""
    needed = {pair.hf: pair.hf_shape for pair in layer_tensors(family, sizes)}
    embedding: Tuple[int, ...] = (sizes.vocab, sizes.d)
    needed[family.embedding] = embedding
    optional = dict.fromkeys(family.tied(), embedding)
    if not family.decoder_only and family.output_bias:
        optional[_BIAS] = (1, sizes.vocab)
    for side in () if family.same_sinusoids else family.sides:
        positions = optional if family.sinusoidal else needed
        positions[family.positions(side)] = (sizes.positions + family.position_offset, sizes.d)
    return needed, optional


def _same(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and one.dtype == other.dtype and torch.equal(one, other)


def fairseq_weights(tensors: Weights, family: Family, sizes: ModelSizes, vocabulary: Vocabulary) -> Weights:
    """Makes the state dict of fairseq's model. Adds rows and a bias where Hugging Face has none."""
    weights: Weights = {}
    for pair in layer_tensors(family, sizes):
        weights.update(pair.split(tensors[pair.hf]))
    embedding = _fairseq_rows(tensors[family.embedding], vocabulary)
    for side in family.sides:
        weights[f"{side}.version"] = torch.tensor([3.0])
        weights[f"{side}.embed_tokens.weight"] = embedding
        if not family.same_sinusoids:
            weights[f"{side}.embed_positions.weight"] = _positions(tensors, family, sizes, side)
    if vocabulary.start != EOS:
        decoder = embedding.clone()
        decoder[EOS] = embedding[vocabulary.start]  # the decoder never reads an eos but as its first symbol
        weights["decoder.embed_tokens.weight"] = decoder
    weights["decoder.output_projection.weight"] = embedding
    bias = _output_bias(tensors, vocabulary, embedding.dtype)
    if bias is not None:
        weights["decoder.output_projection.bias"] = bias
    return weights


def _fairseq_rows(table: Tensor, vocabulary: Vocabulary) -> Tensor:
    """Orders rows by fairseq's dictionary, with zeros for symbols without an id.

    ``(V of Hugging Face, ...) -> (V of fairseq, ...)``
    """
    if vocabulary.is_identity:
        return table
    rows = table.new_zeros(len(vocabulary.ids), *table.shape[1:])
    rows[vocabulary.present] = table[vocabulary.present_ids]
    return rows


def _output_bias(tensors: Weights, vocabulary: Vocabulary, dtype: torch.dtype) -> Optional[Tensor]:
    """Returns the bias of the output projection, ``(V)``; None where it would be zero."""
    zeros = torch.zeros(1, len(vocabulary.present), dtype=dtype)
    bias = _fairseq_rows(tensors.get(_BIAS, zeros)[0], vocabulary).clone()
    bias[vocabulary.absent] = ABSENT_BIAS
    return bias if bool(bias.any()) else None


def _positions(tensors: Weights, family: Family, sizes: ModelSizes, side: str) -> Tensor:
    """Makes fairseq's table. Sinusoids are in float32, as both programs compute them, whatever the weights are in."""
    table = tensors.get(family.positions(side))
    if table is None:
        table = sinusoids(sizes.positions, sizes.d)
    missing = FIRST_POSITION - family.position_offset
    return torch.cat([table.new_zeros(missing, table.size(1)), table]) if missing else table


def hf_tensors(weights: Weights, family: Family, sizes: ModelSizes, vocabulary: Vocabulary) -> Weights:
    """Makes Hugging Face's tensors, tied ones once. The reverse of :func:`fairseq_weights`.

    Positions are written where Hugging Face would compute other sinusoids than fairseq.

    Raises:
        FairseqElError: embeddings are not tied as in Hugging Face's models, or the model uses rows that those lack.
    """
    problems = _untied(weights, family, vocabulary)
    if problems:
        raise FairseqElError(
            f"Hugging Face's {family.architecture} has one embedding for input and output: {'; '.join(problems)}. Such "
            "a model can't be converted"
        )
    tensors = {pair.hf: pair.join(weights) for pair in layer_tensors(family, sizes)}
    side = family.sides[0]
    tensors[family.embedding] = _hf_rows(weights[f"{side}.embed_tokens.weight"], vocabulary)
    for side in () if family.same_sinusoids else family.sides:
        table = weights[f"{side}.embed_positions.weight"][FIRST_POSITION - family.position_offset :]
        tensors[family.positions(side)] = table.clone()
    bias = weights.get("decoder.output_projection.bias")
    if not family.decoder_only and family.output_bias:
        embedding = tensors[family.embedding]
        zeros = embedding.new_zeros(embedding.size(0))
        tensors[_BIAS] = (zeros if bias is None else _hf_rows(bias, vocabulary)).unsqueeze(0)
    return tensors


def _hf_rows(rows: Tensor, vocabulary: Vocabulary) -> Tensor:
    """Orders rows by Hugging Face's ids, without symbols that have none.

    ``(V of fairseq, ...) -> (V of Hugging Face, ...)``
    """
    if vocabulary.is_identity:
        return rows
    table = rows.new_zeros(len(vocabulary.present), *rows.shape[1:])
    table[vocabulary.present_ids] = rows[vocabulary.present]
    return table


def _untied(weights: Weights, family: Family, vocabulary: Vocabulary) -> List[str]:
    """Lists what one embedding for input and output can't express."""
    problems = []
    embedding = weights[f"{family.sides[0]}.embed_tokens.weight"]
    expected = embedding
    if vocabulary.start != EOS:
        expected = embedding.clone()
        expected[EOS] = embedding[vocabulary.start]
    if not _same(weights["decoder.embed_tokens.weight"], expected):
        problems.append("decoder.embed_tokens.weight is not encoder.embed_tokens.weight")
    if not _same(weights.get("decoder.output_projection.weight", embedding), embedding):
        problems.append(f"decoder.output_projection.weight is not {family.sides[0]}.embed_tokens.weight")
    absent = vocabulary.absent
    bias = weights.get("decoder.output_projection.bias")
    if absent and (bias is None or not bool((bias[absent] == ABSENT_BIAS).all()) or bool(embedding[absent].any())):
        names = ", ".join(vocabulary.symbols[i] for i in absent)
        problems.append(f"symbols {names} are in use, and it does not have them")
    if (family.decoder_only or not family.output_bias) and bias is not None and bool(bias[vocabulary.present].any()):
        problems.append("the output projection has a bias, and it has none")
    return problems
