"""A fairseq decoder as the native code reads it: its parameters, in the structs of ``csrc/model.h``.

Parameters stay where they are. Copies are made of weights that are packed for oneDNN, of norms in 16 bits, and of the
embeddings of all words where they are not one table (adaptive input, ``--decoder-input-dim``).
"""

from __future__ import annotations

from typing import Any, Callable, List, Optional, Sequence, Set, Tuple
from weakref import WeakKeyDictionary

import torch
from fairseq.modules import gelu, gelu_accurate
from fairseq.utils import relu_squared
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from fairseq_el.decoding import (
    Linears,
    NetInput,
    has_hooks,
    is_plain_decoder_layer,
    is_plain_encoder,
    is_plain_linear,
    self_attention_of,
)
from fairseq_el.dtypes import dtype_name, place_of
from fairseq_el.ops import Int8Linear, PackedLinear, can_pack
from fairseq_el.policy import LONGEST_NATIVE_SOURCE, first_packed_rows, should_pack

_ACTIVATIONS = {
    F.relu: "relu",
    relu_squared: "relu_squared",
    gelu: "gelu",
    gelu_accurate: "gelu_accurate",
    torch.tanh: "tanh",
    F.silu: "swish",
}
_LINEAR = "get_activation_fn.<locals>.<lambda>"  # fairseq's --activation-fn linear
DTYPES = ("fp64", "fp32", "bf16")


def reason_against(model: Any) -> Optional[str]:
    """The reason why native code can't run the decoder of an EL model, in half a sentence; None if it can."""
    decoder = model.decoder
    device, dtype = place_of(decoder)
    if device.type != "cpu":
        return f"the model is on {device.type}, and native code runs on a CPU"
    dtypes = {p.dtype for p in decoder.parameters()}
    if len(dtypes) > 1 or dtype_name(dtype) not in DTYPES:
        return f"the decoder is in {', '.join(sorted(map(str, dtypes)))}, not in float64, float32 or bfloat16"
    if len(decoder.layers) == 0:
        return "the decoder has no layers"
    parts = [decoder.embed_tokens, decoder.embed_positions, decoder.layernorm_embedding, decoder.layer_norm]
    parts += [decoder.dropout_module, decoder.project_in_dim, decoder.project_out_dim, decoder.output_projection]
    if any(has_hooks(part) for part in parts if part is not None):
        return "a module of the decoder has hooks"
    if decoder.quant_noise is not None:
        return "the embeddings have quantisation noise"
    if not is_plain_linear(decoder.output_projection):
        return f"the output projection is a {type(decoder.output_projection).__name__}"
    if decoder.project_out_dim is not None and not is_plain_linear(decoder.project_out_dim):
        return f"project_out_dim is a {type(decoder.project_out_dim).__name__}"
    for norm in (decoder.layernorm_embedding, decoder.layer_norm):
        if norm is not None and not _is_plain_norm(norm):
            return f"a norm is a {type(norm).__name__} without weights"
    return next((reason for reason in map(_reason_against_layer, decoder.layers) if reason is not None), None)


def can_encode(model: Any, net_input: NetInput, source_length: int) -> bool:
    """Returns whether native code can run the encoder of an EL model over a batch, and is faster.

    Attention over long sources is faster in torch. In float64 an encoder's softmax does not round, and a decoder's
    does; native code has only the latter.
    """
    encoder = getattr(model, "encoder", None)
    if encoder is None or source_length > LONGEST_NATIVE_SOURCE or not is_plain_encoder(encoder, net_input):
        return False
    norms = [norm for norm in (encoder.layernorm_embedding, encoder.layer_norm) if norm is not None]
    parts = [encoder.dropout_module, encoder.embed_tokens, encoder.embed_positions, *norms]
    return (
        {p.dtype for p in encoder.parameters()} == {torch.float32} == {p.dtype for p in model.decoder.parameters()}
        and len(encoder.layers) > 0
        and type(encoder.embed_tokens) is nn.Embedding
        and encoder.quant_noise is None
        and "forward_embedding" not in vars(encoder)
        and not any(has_hooks(part) for part in parts if part is not None)
        and all(map(_is_plain_norm, norms))
        and all(_reason_against_encoder_layer(layer) is None for layer in encoder.layers)
    )


def _reason_against_encoder_layer(layer: Any) -> Optional[str]:
    linears = [layer.fc1, layer.fc2, layer.self_attn.out_proj]
    return _reason_against_parts(layer, linears, [layer.self_attn_layer_norm, layer.final_layer_norm])


def _reason_against_layer(layer: Any) -> Optional[str]:
    if not is_plain_decoder_layer(layer):
        return f"a layer is a {type(layer).__name__} with modules that fairseq's own has not"
    linears = [layer.fc1, layer.fc2]
    norms = [layer.self_attn_layer_norm, layer.final_layer_norm]
    attentions = [layer.self_attn]
    if layer.encoder_attn is not None:
        norms.append(layer.encoder_attn_layer_norm)
        attentions.append(layer.encoder_attn)
    for attention in attentions:
        if attention.score_limit is not None:
            return "it attends to the k largest scores (Top-k attention)"
        linears += [attention.q_proj, attention.out_proj]
    return _reason_against_parts(layer, linears, norms)


def _reason_against_parts(layer: Any, linears: Sequence[Any], norms: Sequence[Any]) -> Optional[str]:
    if _activation_of(layer) is None:
        return f"the activation is {layer.activation_fn}"
    for linear in linears:
        if not is_plain_linear(linear):
            return f"a layer has a {type(linear).__name__} in the place of nn.Linear"
    if not all(map(_is_plain_norm, norms)):
        return "a norm of a layer has no weights"
    return None


def _is_plain_norm(norm: Any) -> bool:
    return type(norm) is nn.LayerNorm and norm.weight is not None and norm.bias is not None


def _activation_of(layer: Any) -> Optional[str]:
    function = layer.activation_fn
    if getattr(function, "__qualname__", "") == _LINEAR:
        return "linear"
    return _ACTIVATIONS.get(function)


class NativeModel:
    """A decoder's parameters for native code, and copies of some of them.

    Attributes:
        described: the struct ``Model`` of the extension.
        encodes: whether the encoder is described, too.
    """

    def __init__(self, extension: Any, model: Any, backend: str, encodes: bool, linears: Linears, num_rows: int):
        """
        Args:
            extension: the module ``fairseq_el._native``.
            backend: what cross-attention keeps, ``"el"`` or ``"shared-kv"``.
            encodes: describe the encoder.
            linears: how the decoder's linear layers are computed, and how often a weight will be used.
            num_rows: rows that most products will have, about.
        """
        self._extension = extension
        self._dtype = place_of(model.decoder)[1]
        self.encodes = encodes
        self._linears, self._num_rows = linears, num_rows
        self._keeps_inputs = self_attention_of(model) == "el"
        self._keeps_source = backend == "el"
        self._unpacked: Set[int] = set()  # sizes of weights
        self.described = self._model(model)

    def serves(self, encodes: bool, num_rows: int) -> bool:
        """Returns whether a batch needs nothing more: no encoder, and no weight packed that is not."""
        packs = (self._should_pack(size, num_rows) for size in self._unpacked)
        return self.encodes >= encodes and not any(packs)

    def _model(self, model: Any) -> Any:
        decoder, described = model.decoder, self._extension.Model()
        described.decoder = self._stack(decoder, self._layer)
        described.decoder.embedding, described.decoder.embedding_scale = _embedding(decoder)
        if self.encodes:
            described.encoder = self._stack(model.encoder, self._encoder_layer)
            described.encoder.embedding = model.encoder.embed_tokens.weight.detach()
            described.encoder.embedding_scale = float(model.encoder.embed_scale)
        if decoder.project_out_dim is not None:
            described.project_out = self._product(decoder.project_out_dim)
        described.vocabulary = self._product(decoder.output_projection)
        described.keeps_inputs = self._keeps_inputs
        return described

    def _stack(self, stack: Any, describe: Callable[[Any], Any]) -> Any:
        described = self._extension.Stack()
        described.embedding_norm = self._norm(stack.layernorm_embedding)
        described.final_norm = self._norm(stack.layer_norm)
        described.layers = [describe(layer) for layer in stack.layers]
        return described

    def _encoder_layer(self, layer: Any) -> Any:
        described, attention = self._extension.Layer(), layer.self_attn
        described.pre_norm, described.activation = layer.normalize_before, _activation_of(layer)
        inputs = [self._plain(linear) for linear in (attention.q_proj, attention.k_proj, attention.v_proj)]
        described.self_attention = self._attention(attention, inputs, self._plain(attention.out_proj))
        described.self_norm, described.final_norm = map(
            self._norm, (layer.self_attn_layer_norm, layer.final_layer_norm)
        )
        described.up, described.down = self._plain(layer.fc1), self._plain(layer.fc2)
        return described

    def _layer(self, layer: Any) -> Any:
        described = self._extension.Layer()
        described.pre_norm = layer.normalize_before
        described.activation = _activation_of(layer)
        described.self_attention = self._self_attention(layer.self_attn)
        described.self_norm = self._norm(layer.self_attn_layer_norm)
        described.final_norm = self._norm(layer.final_layer_norm)
        described.up, described.down = self._product(layer.fc1), self._product(layer.fc2)
        described.has_source = layer.encoder_attn is not None
        if described.has_source:
            described.source_attention = self._attention_over_source(layer.encoder_attn)
            described.source_norm = self._norm(layer.encoder_attn_layer_norm)
        return described

    def _self_attention(self, attention: Any) -> Any:
        output = self._product(attention.out_proj)
        if self._keeps_inputs:
            return self._attention(attention, [self._product(attention.q_proj)], output)
        projections = (attention.q_proj, attention.k_proj, attention.v_proj)
        joined = self._joined(projections)
        inputs = [self._product(projection) for projection in projections] if joined is None else [joined]
        return self._attention(attention, inputs, output)

    def _attention_over_source(self, attention: Any) -> Any:
        inputs = [self._product(attention.q_proj)]
        described = self._attention(attention, inputs, self._product(attention.out_proj))
        if not self._keeps_source or not self._linears.int8:  # the source is multiplied by them
            described.key, described.value = self._plain(attention.k_proj), self._plain(attention.v_proj)
        return described

    def _attention(self, attention: Any, inputs: List[Any], output: Any) -> Any:
        described = self._extension.Attention()
        described.heads = attention.num_heads
        described.inputs = inputs
        described.key, described.value = self._weights(attention.k_proj), self._weights(attention.v_proj)
        described.output = output
        return described

    def _norm(self, norm: Optional[Any]) -> Any:
        described = self._extension.LayerNorm()
        if norm is not None:
            dtype = torch.float64 if self._dtype == torch.float64 else torch.float32
            described.weight, described.bias = (p.detach().to(dtype) for p in (norm.weight, norm.bias))
            described.eps = norm.eps
        return described

    def _weights(self, linear: Any) -> Any:
        """A product with the plain weight."""
        described = self._extension.Product()
        described.weight = linear.weight.detach().contiguous()
        if linear.bias is not None:
            described.bias = linear.bias.detach()
        return described

    def _plain(self, linear: Any) -> Any:
        """A product with the plain weight, or in 8 bits."""
        described = self._weights(linear)
        if self._linears.int8:
            self._to_int8(described, described.weight)
        return described

    def _product(self, linear: Any) -> Any:
        described = self._plain(linear)
        if self._packs(linear.weight.numel()):
            self._pack(described)
        return described

    def _joined(self, linears: Sequence[Any]) -> Optional[Any]:
        """One product for all of ``linears``, if it has a copy of the weights: then the copy joins them."""
        if not self._linears.int8 and not self._packs(sum(linear.weight.numel() for linear in linears)):
            return None
        described, weight = self._extension.Product(), torch.cat([linear.weight.detach() for linear in linears])
        if any(linear.bias is not None for linear in linears):
            zeros = linears[0].weight.new_zeros(linears[0].out_features)
            described.bias = torch.cat([zeros if m.bias is None else m.bias.detach() for m in linears])
        if self._linears.int8:
            self._to_int8(described, weight)
        else:
            described.weight = weight
            self._pack(described)
        return described

    def _packs(self, size: int) -> bool:
        packs = self._should_pack(size, self._num_rows)
        if not packs:
            self._unpacked.add(size)
        return packs

    def _should_pack(self, size: int, num_rows: int) -> bool:
        if self._linears.int8 or not can_pack("cpu", self._dtype):
            return False
        return should_pack(dtype_name(self._dtype), num_rows, size, self._linears.num_uses)

    def _pack(self, described: Any) -> None:
        packed = PackedLinear(described.weight, described.bias, self._num_rows)
        described.packed, described.fuses = packed.weight, packed.fuses
        described.packed_from = first_packed_rows(dtype_name(self._dtype), described.weight.numel())

    @staticmethod
    def _to_int8(described: Any, weight: Tensor) -> None:
        in_int8 = Int8Linear(weight, None)
        described.in_int8, described.scales, described.zeros = in_int8.weight, in_int8.scales, in_int8.zeros


def _embedding(decoder: Any) -> Tuple[Tensor, float]:
    """The embeddings of all words, ``(V, d)``, and the factor that they have."""
    if type(decoder.embed_tokens) is nn.Embedding and decoder.project_in_dim is None:
        return decoder.embed_tokens.weight.detach(), float(decoder.embed_scale)
    words = torch.arange(decoder.output_projection.out_features)
    table = decoder.embed_scale * decoder.embed_tokens(words)
    if decoder.project_in_dim is not None:
        table = decoder.project_in_dim(table)
    return table.detach().contiguous(), 1.0


class _Known:
    """The native model of one way to compute linear layers, and what it was made of."""

    def __init__(self) -> None:
        self.made_of: Any = None
        self.model: Optional[NativeModel] = None


_known: WeakKeyDictionary[Linears, _Known] = WeakKeyDictionary()


def native_model(extension: Any, model: Any, backend: str, encodes: bool, linears: Linears, num_rows: int) -> Any:
    """The struct ``Model`` of a decoder for one batch.

    It is made again where parameters have changed, or where a batch needs copies that it has not: batches of other
    sizes and lengths follow each other, and packing takes longer than a batch.

    Args:
        extension: the module ``fairseq_el._native``.
        backend: what cross-attention keeps, ``"el"`` or ``"shared-kv"``.
        encodes: whether native code runs the encoder, too.
        linears: how the decoder's linear layers are computed, and how often a weight will be used.
        num_rows: rows that products of a batch will have, about.
    """
    known = _known.setdefault(linears, _Known())
    versions = [(p.data_ptr(), p._version, p.dtype) for p in model.parameters()]
    made_of = (versions, self_attention_of(model), backend if linears.int8 else None)
    if known.made_of != made_of or known.model is None or not known.model.serves(encodes, num_rows):
        encodes = encodes or (known.model is not None and known.made_of == made_of and known.model.encodes)
        known.model = None  # its copies leave before the new ones come
        known.model = NativeModel(extension, model, backend, encodes, linears, num_rows)
        known.made_of = made_of
    known.model.described.keeps_source = backend == "el"
    return known.model.described
