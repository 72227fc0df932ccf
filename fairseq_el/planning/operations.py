"""The operations of a decoder, each with its FLOPs and the bytes that it reads and writes.

Symbols: ``B`` sentences, ``b`` beams, ``h`` heads, ``d`` width of the decoder, ``m`` width of the memory (the encoder's
output; usually ``d``), ``n`` source length, ``L`` decoder layers, ``s`` bytes per element.

One rule counts all bytes: an operation reads each of its inputs once and writes its output once. A multiplication with
the addition that follows it are two FLOPs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Iterable, Tuple

from fairseq_el.planning.model_shape import ModelShape
from fairseq_el.planning.workload import default_node_share

# Ways to compute cross-attention: the two of this package, and the two of stock fairseq to compare with.
BACKENDS = ("el", "shared-kv")
STOCK = ("stock", "stock-shared")


@dataclass(frozen=True)
class Operation:
    """One product, softmax or copy.

    Attributes:
        flops: floating-point operations.
        bytes: bytes read and written.
        rate: the field of :class:`Rates` with its FLOP/s, ``"dense"`` or ``"shared"``.
        bandwidth: the field of :class:`Rates` with its bytes/s, ``"stream"`` or ``"bandwidth"``.
    """

    name: str
    flops: int
    bytes: int
    rate: str = "shared"
    bandwidth: str = "stream"


@dataclass(frozen=True)
class CrossAttentionShape:
    """The numbers of a model that its cross-attention's cost depends on: ``L``, ``h``, ``d`` and ``m``."""

    layers: int
    heads: int
    width: int
    memory_width: int

    @classmethod
    def of(cls, shape: ModelShape) -> CrossAttentionShape:
        """Those of a whole model."""
        return cls(shape.decoder_layers, shape.decoder_heads, shape.decoder_dim, shape.encoder_dim)


@dataclass(frozen=True)
class CrossAttentionOperations:
    """The operations of cross-attention with one backend.

    Attributes:
        step: operations of one layer in one step.
        once: operations of one layer that are done once per batch.
        state_bytes: bytes kept between steps for all layers, the encoder's output included.
    """

    step: Tuple[Operation, ...]
    once: Tuple[Operation, ...]
    state_bytes: int


def flops(operations: Iterable[Operation]) -> int:
    """FLOPs of all operations."""
    return sum(operation.flops for operation in operations)


def traffic(operations: Iterable[Operation]) -> int:
    """Bytes that all operations read and write."""
    return sum(operation.bytes for operation in operations)


def cross_attention_operations(
    backend: str, model: CrossAttentionShape, batch: int, beam: int, src_len: int, element_size: int
) -> CrossAttentionOperations:
    """The operations of cross-attention, without the query and output projections, which all backends share.

    Args:
        backend: ``"el"``, ``"shared-kv"``, or stock fairseq's: ``"stock"`` (cached keys and values per beam) or
            ``"stock-shared"`` (per sentence, as ``"shared-kv"``).

    Raises:
        ValueError: there is no such backend.
    """
    if backend not in BACKENDS + STOCK:
        raise ValueError(f"backend must be one of {list(BACKENDS + STOCK)}; got {backend!r}")
    if backend == "stock":  # every beam is a sentence of its own
        batch, beam = batch * beam, 1
    memory_size = batch * src_len * model.memory_width * element_size
    if backend == "el":
        return CrossAttentionOperations(_el(model, batch, beam, src_len, element_size), (), memory_size)
    keys_size = batch * src_len * model.width * element_size
    projection = Operation(
        "projection",
        flops=2 * batch * src_len * model.width * model.memory_width,
        bytes=memory_size + model.width * model.memory_width * element_size + keys_size,
        rate="dense",
    )
    per_head = Operation("bring heads together", 0, 2 * keys_size)
    return CrossAttentionOperations(
        _kv(model.heads, model.width, batch, beam, src_len, element_size, fused=backend == "shared-kv"),
        (projection, per_head) * 2,  # of keys and of values
        memory_size + 2 * model.layers * keys_size,
    )


def _el(model: CrossAttentionShape, batch: int, beam: int, src_len: int, element_size: int) -> Tuple[Operation, ...]:
    """EL-attention (Yan et al. 2021, arXiv 2105.04779): ``4 B b n m h + 4 B b d m`` FLOPs.

    It reads ``2 B n m s`` bytes of the memory and ``2 d m s`` bytes of weights.
    """
    rows, s = batch * beam, element_size
    query_size = rows * model.width * s
    expanded_size = rows * model.heads * model.memory_width * s
    weight_size = model.width * model.memory_width * s
    memory_size = batch * src_len * model.memory_width * s
    num_scores = rows * model.heads * src_len
    per_weight = 2 * rows * model.width * model.memory_width
    product = 2 * num_scores * model.memory_width
    return (
        Operation("expand", per_weight, query_size + weight_size + expanded_size),
        Operation("scores", product, expanded_size + memory_size + num_scores * s),
        Operation("softmax", 0, 2 * num_scores * s),
        Operation("context", product, num_scores * s + memory_size + expanded_size),
        Operation("contract", per_weight, expanded_size + weight_size + query_size),
    )


def _kv(
    heads: int, width: int, batch: int, beam: int, length: int, element_size: int, fused: bool
) -> Tuple[Operation, ...]:
    """Attention over keys and values kept per sentence: ``4 B b n d`` FLOPs, ``2 B n d s`` bytes of keys and values.

    Args:
        fused: scores stay in registers and caches, as in torch's fused attention. Stock fairseq writes them to memory
            and takes their softmax in float32, on copies where they are of another dtype.
    """
    rows, s = batch * beam, element_size
    outside = 2 * (rows + batch * length) * width * s  # queries and outputs, keys and values
    if fused:
        return (Operation("attention", 4 * rows * length * width, outside, bandwidth="bandwidth"),)
    num_scores = rows * heads * length
    product = Operation("product", 2 * rows * length * width, outside // 2 + num_scores * s, bandwidth="bandwidth")
    softmax = Operation("softmax", 0, num_scores * (2 * s + (0 if s == 4 else 8)))
    return product, softmax, product


def decoder_step_operations(
    backend: str, shape: ModelShape, batch: int, beam: int, src_len: int, past: int, element_size: int
) -> Tuple[Operation, ...]:
    """The operations of the whole decoder in one step, without search, layer norms and activations.

    Stock fairseq has the past in its cache; ``"el"`` and ``"shared-kv"`` have it in the tree of beams, as keys and
    values.

    Args:
        past: words of every hypothesis so far.
    """
    model, rows, s = CrossAttentionShape.of(shape), batch * beam, element_size
    width, hidden = shape.decoder_dim, shape.decoder_ffn_dim
    cross = cross_attention_operations(backend, model, batch, beam, src_len, s).step
    layer = [*cross, *(_linear(rows, width, width, s) for _ in range(6))]  # self: q, k, v, output; cross: q, output
    layer += [_linear(rows, width, hidden, s), _linear(rows, hidden, width, s)]
    head = [_linear(rows, width, shape.vocab_size, s)]
    if backend in STOCK:
        cache_size = 2 * rows * past * width * s
        layer += _kv(shape.decoder_heads, width, rows, 1, past, s, fused=False)
        layer += [Operation(name, 0, 2 * cache_size) for name in ("append to the cache", "follow the beams")]
        if backend == "stock":  # the encoder's output, and the source's embeddings that fairseq keeps with it
            head.append(Operation("follow the beams", 0, 2 * 2 * rows * src_len * shape.encoder_dim * s))
    else:
        nodes = round(default_node_share(beam) * beam * past)
        layer += _kv(shape.decoder_heads, width, batch, beam, nodes, s, fused=True)
    return (*(layer * shape.decoder_layers), *head)


def _linear(rows: int, in_width: int, out_width: int, element_size: int) -> Operation:
    size = (rows * in_width + in_width * out_width + rows * out_width) * element_size
    return Operation("linear", 2 * rows * in_width * out_width, size, rate="dense")
