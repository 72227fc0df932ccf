"""The layers that ``topk_layers.py`` measures: attention and feed-forward, exact and top-k, one or a stack."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple

import torch
from authors_topk_attention import authors_topk_attention
from torch import Tensor
from torch.nn import functional as F  # noqa: N812
from torch.utils.checkpoint import checkpoint

from fairseq_el._compat import torch_version
from fairseq_el.errors import OptionError
from fairseq_el.ops import MOST_QUERIES, keep_largest, topk_attention, topk_feed_forward

_WITH_TOPK = ("topk", "authors")
HAS_SDPA = torch_version() >= (2, 1)  # with a scale


@dataclass(frozen=True)
class LayerMethod:
    """A way to compute a layer.

    Attributes:
        kind: ``"vanilla"`` (all scores at once), ``"chunked"`` (exact, the scores of a chunk at a time, computed again
            for the gradients), ``"sdpa"`` (torch's ``scaled_dot_product_attention``), ``"topk"`` or ``"authors"``
            (top-k of attention in their way).
        number: another chunk for ``chunked``, another ``k`` for ``topk``.
    """

    kind: str
    number: Optional[int] = None

    @property
    def label(self) -> str:
        return self.kind if self.number is None else f"{self.kind}:{self.number}"


@dataclass(frozen=True)
class AttentionLayers:
    """Attention of ``h`` heads over given queries, keys and values.

    Every further layer gets its queries, keys and values from the output of the one before, by three linear maps.

    Attributes:
        chunk: queries at a time, of ``chunked`` and, as far as it takes so many, of ``topk``.
    """

    length: int
    layers: int
    batch: int = 1
    heads: int = 12
    head_dim: int = 64
    k: int = 128
    chunk: int = 1024
    causal: bool = True
    dropout: float = 0.0

    methods = ("vanilla", "chunked", "topk", "sdpa")
    default_methods = f"vanilla,chunked,chunked:{MOST_QUERIES},topk" + (",sdpa" if HAS_SDPA else "")

    @property
    def sizes(self) -> Dict[str, int]:
        return {"length": self.length, "layers": self.layers}

    @property
    def output_shape(self) -> Tuple[int, ...]:
        return self.batch, self.heads, self.length, self.head_dim

    def small(self, most: int) -> AttentionLayers:
        """For checks: of at most so many positions, in several chunks, and with something to leave out."""
        length = min(self.length, most)
        chunk, k = max(min(self.chunk, length // 3), 1), max(min(self.k, length // 4), 1)
        return replace(self, length=length, layers=min(self.layers, 2), chunk=chunk, k=k)

    def inputs(self, draw: Callable[..., Tensor]) -> List[Tensor]:
        """Queries (scaled), keys, values, and three weights for every layer after the first."""
        width = self.heads * self.head_dim
        query, key, value = (draw(*self.output_shape) for _ in range(3))
        weights = [draw(width, width) / width**0.5 for _ in range(3 * (self.layers - 1))]
        return [query / self.head_dim**0.5, key, value, *weights]

    def output(self, method: LayerMethod, inputs: Sequence[Tensor]) -> Tensor:
        return self._stack(self.output_of(method), inputs)

    def twin(self, method: LayerMethod, inputs: Sequence[Tensor]) -> Tensor:
        """The result that the method must have, computed as simply as can be."""
        if method.kind != "topk":
            return self._stack(self._vanilla, inputs)
        return self._stack(partial(_topk_attention_twin, k=method.number or self.k, causal=self.causal), inputs)

    def expected_bytes(self, method: LayerMethod, backward: bool, element_size: int) -> int:
        """About what the method needs beside what is linear in the length."""
        rows = {"vanilla": self.length, "chunked": method.number or self.chunk}.get(method.kind, 0)
        scores = self.batch * self.heads * self.length * min(rows, self.length) * element_size
        kept = self.layers - 1 if method.kind == "vanilla" and backward else 0
        return scores * (kept + (4 if backward else 2))

    def _stack(self, attention: Callable[..., Tensor], inputs: Sequence[Tensor]) -> Tensor:
        output = attention(*inputs[:3])
        for first in range(3, len(inputs), 3):
            flat = output.transpose(1, 2).reshape(self.batch, self.length, -1)  # (B, h, n, dh) -> (B, n, h*dh)
            query, key, value = (
                F.linear(flat, weight).view(self.batch, self.length, self.heads, -1).transpose(1, 2)
                for weight in inputs[first : first + 3]
            )
            output = attention(query / self.head_dim**0.5, key, value)
        return output

    def output_of(self, method: LayerMethod) -> Callable[..., Tensor]:
        """A function from queries, keys and values to the output of one layer."""
        if method.kind == "topk":
            k = method.number or self.k
            return partial(topk_attention, k=k, causal=self.causal, query_chunk=self.chunk, dropout=self.dropout)
        if method.kind == "chunked":
            return partial(self._chunked, chunk=method.number or self.chunk)
        if method.kind == "sdpa":
            options = {"is_causal": self.causal, "scale": 1.0, "dropout_p": self.dropout}
            return partial(F.scaled_dot_product_attention, **options)
        return self._vanilla

    def _vanilla(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return _exact(query, key, value, _future(self.length, query) if self.causal else None, self.dropout)

    def _chunked(self, query: Tensor, key: Tensor, value: Tensor, chunk: int) -> Tensor:
        """Keys that no query of a chunk sees are left out, as in ``topk``."""
        parts = []
        for begin in range(0, self.length, chunk):
            rows = slice(begin, begin + chunk)
            keys = slice(rows.stop if self.causal else None)
            part = (query[:, :, rows], key[:, :, keys], value[:, :, keys])
            hidden = _future(part[0].size(2), query) if self.causal else None
            parts.append(_recomputed(_exact, *part, hidden, self.dropout))
        return torch.cat(parts, dim=2)


@dataclass(frozen=True)
class BlockLayers:
    """Blocks of a Transformer: attention with its four projections and, with hidden units, a feed-forward layer.

    ``x + drop(attention(norm(x)))``, then ``x + drop(feed_forward(norm(x)))``, with norms without weights.

    Attributes:
        hidden: units of the feed-forward layer; 0 for no such layer.
        dropout: probability, of attention weights and of both branches. Checks are without it.
        k, hidden_k: scores of a query, and hidden units of a token, that ``topk`` and ``authors`` keep.
        chunk: queries at a time, of ``chunked`` and ``authors`` and, as far as it takes so many, of ``topk``.
    """

    length: int
    layers: int
    hidden: int
    heads: int = 12
    head_dim: int = 64
    k: int = 128
    hidden_k: int = 512
    chunk: int = 1024
    causal: bool = True
    dropout: float = 0.0

    methods = ("vanilla", "chunked", "topk", "authors", "sdpa")
    default_methods = "vanilla,chunked,topk,authors" + (",sdpa" if HAS_SDPA else "")

    @property
    def sizes(self) -> Dict[str, int]:
        return {"length": self.length, "hidden": self.hidden, "layers": self.layers}

    @property
    def width(self) -> int:
        return self.heads * self.head_dim

    @property
    def output_shape(self) -> Tuple[int, ...]:
        return self.length, self.width

    def small(self, most: int) -> BlockLayers:
        """The same for checks, without dropout; see :meth:`AttentionLayers.small`."""
        length = min(self.length, most)
        return replace(
            self,
            length=length,
            layers=min(self.layers, 2),
            chunk=max(min(self.chunk, length // 3), 1),
            k=max(min(self.k, length // 4), 1),
            hidden_k=max(min(self.hidden_k, self.hidden // 4), 1),
            dropout=0.0,
        )

    def inputs(self, draw: Callable[..., Tensor]) -> List[Tensor]:
        """Words, and of every layer weights of queries, keys, values, output, and what the feed-forward layer has.

        The projections have no bias: that of keys changes nothing, and its gradient would be rounding alone.
        """
        inputs = [draw(*self.output_shape)]
        for _ in range(self.layers):
            inputs += [draw(self.width, self.width) / self.width**0.5 for _ in range(4)]
            if self.hidden:
                inputs += [draw(self.hidden, self.width) / self.width**0.5, draw(self.hidden)]
                inputs += [draw(self.width, self.hidden) / self.hidden**0.5, draw(self.width)]
        return inputs

    def output(self, method: LayerMethod, inputs: Sequence[Tensor]) -> Tensor:
        return self._stack(self._attention(method), self._feed_forward(method), inputs)

    def twin(self, method: LayerMethod, inputs: Sequence[Tensor]) -> Tensor:
        if method.kind not in _WITH_TOPK:
            return self._stack(self._scores.output_of(LayerMethod("vanilla")), _feed_forward, inputs)
        attention = partial(_topk_attention_twin, k=method.number or self.k, causal=self.causal)
        return self._stack(attention, partial(_topk_feed_forward_twin, k=self.hidden_k), inputs)

    def expected_bytes(self, method: LayerMethod, backward: bool, element_size: int) -> int:
        """About what scores and hidden units of a method need beside what is linear in the length."""
        return self._scores.expected_bytes(method, backward, element_size)

    @property
    def _scores(self) -> AttentionLayers:
        return AttentionLayers(
            length=self.length,
            layers=self.layers,
            heads=self.heads,
            head_dim=self.head_dim,
            k=self.k,
            chunk=self.chunk,
            causal=self.causal,
            dropout=self.dropout,
        )

    def _attention(self, method: LayerMethod) -> Callable[..., Tensor]:
        if method.kind != "authors":
            return self._scores.output_of(method)
        return partial(authors_topk_attention, k=self.k, causal=self.causal, chunk=self.chunk, dropout=self.dropout)

    def _feed_forward(self, method: LayerMethod) -> Callable[..., Tensor]:
        if method.kind in _WITH_TOPK:
            return partial(topk_feed_forward, k=self.hidden_k)
        return partial(_chunked_tokens, chunk=self.chunk) if method.kind == "chunked" else _feed_forward

    def _stack(
        self, attention: Callable[..., Tensor], feed_forward: Callable[..., Tensor], inputs: Sequence[Tensor]
    ) -> Tensor:
        x, of_a_layer = inputs[0], 8 if self.hidden else 4
        for first in range(1, len(inputs), of_a_layer):
            weights = inputs[first : first + of_a_layer]
            x = x + F.dropout(self._attend(attention, _norm(x), weights), self.dropout)
            if self.hidden:
                x = x + F.dropout(feed_forward(_norm(x), *weights[4:]), self.dropout)
        return x

    def _attend(self, attention: Callable[..., Tensor], x: Tensor, weights: Sequence[Tensor]) -> Tensor:
        """Attention of all heads. *Shape:* ``(n, d)`` to the same."""
        query, key, value = (
            F.linear(x, weight).view(self.length, self.heads, -1).transpose(0, 1).unsqueeze(0) for weight in weights[:3]
        )  # (1, h, n, dh)
        heads = attention(query / self.head_dim**0.5, key, value)
        return F.linear(heads.squeeze(0).transpose(0, 1).reshape(x.shape), weights[3])


@dataclass(frozen=True)
class FeedForwardLayers:
    """``W2 relu(W1 x + b1) + b2`` over tokens, each layer's input the output of the one before.

    Attributes:
        chunk: tokens at a time, of ``chunked`` and ``topk``.
    """

    tokens: int
    hidden: int
    layers: int
    width: int = 768
    k: int = 512
    chunk: int = 16384

    methods = ("vanilla", "chunked", "topk")
    default_methods = "vanilla,chunked,topk"

    @property
    def sizes(self) -> Dict[str, int]:
        return {"tokens": self.tokens, "hidden": self.hidden, "layers": self.layers}

    @property
    def output_shape(self) -> Tuple[int, ...]:
        return self.tokens, self.width

    def small(self, most: int) -> FeedForwardLayers:
        """The same for checks; see :meth:`AttentionLayers.small`."""
        tokens = min(self.tokens, most)
        chunk, k = max(min(self.chunk, tokens // 3), 1), max(min(self.k, self.hidden // 4), 1)
        return replace(self, tokens=tokens, layers=min(self.layers, 2), chunk=chunk, k=k)

    def inputs(self, draw: Callable[..., Tensor]) -> List[Tensor]:
        """Tokens, and two weights and two biases for every layer."""
        inputs = [draw(*self.output_shape)]
        for _ in range(self.layers):
            inputs += [draw(self.hidden, self.width) / self.width**0.5, draw(self.hidden)]
            inputs += [draw(self.width, self.hidden) / self.hidden**0.5, draw(self.width)]
        return inputs

    def output(self, method: LayerMethod, inputs: Sequence[Tensor]) -> Tensor:
        if method.kind == "topk":
            return self._stack(partial(topk_feed_forward, k=method.number or self.k, chunk=self.chunk), inputs)
        if method.kind == "chunked":
            return self._stack(partial(_chunked_tokens, chunk=method.number or self.chunk), inputs)
        return self._stack(_feed_forward, inputs)

    def twin(self, method: LayerMethod, inputs: Sequence[Tensor]) -> Tensor:
        if method.kind != "topk":
            return self._stack(_feed_forward, inputs)
        return self._stack(partial(_topk_feed_forward_twin, k=method.number or self.k), inputs)

    def expected_bytes(self, method: LayerMethod, backward: bool, element_size: int) -> int:
        rows = {"vanilla": self.tokens}.get(method.kind, method.number or self.chunk)
        if method.kind == "topk":
            rows = self.chunk
        hidden = min(rows, self.tokens) * self.hidden * element_size
        kept = 2 * (self.layers - 1) if method.kind == "vanilla" and backward else 0
        return hidden * (kept + (3 if backward else 2))

    def _stack(self, layer: Callable[..., Tensor], inputs: Sequence[Tensor]) -> Tensor:
        x = inputs[0]
        for first in range(1, len(inputs), 4):
            x = layer(x, *inputs[first : first + 4])
        return x


def parse_methods(text: str, layers: Any) -> Tuple[LayerMethod, ...]:
    """``"vanilla,chunked:256,topk:64"``. Args: ``layers``: the class whose methods they are."""
    methods = []
    for part in text.split(","):
        kind, _, number = part.partition(":")
        takes_number = kind in ("chunked", "topk")
        if kind not in layers.methods or (number and not (takes_number and number.isdigit() and int(number))):
            raise OptionError(
                f"--methods must name methods out of {', '.join(layers.methods)}, where chunked may be followed by "
                f"its chunk and topk by its k, as topk:64; got {part!r}"
            )
        if kind == "sdpa" and not HAS_SDPA:
            raise OptionError(f"--methods sdpa needs torch 2.1, and this is {torch.__version__}; leave it out")
        methods.append(LayerMethod(kind, int(number) if number else None))
    if len(set(methods)) < len(methods):
        raise OptionError(f"--methods must name every method once; got {text}")
    return tuple(methods)


def _exact(query: Tensor, key: Tensor, value: Tensor, future: Optional[Tensor], dropout: float) -> Tensor:
    scores = query @ key.transpose(2, 3)  # (B, h, t, dh) x (B, h, dh, n) -> (B, h, t, n)
    if future is not None:
        scores[..., key.size(2) - future.size(1) :].masked_fill_(future, float("-inf"))
    return F.dropout(torch.softmax(scores, dim=-1), dropout) @ value


def _norm(x: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:])


def _future(length: int, like: Tensor) -> Tensor:
    """True where a key comes after the query. *Shape:* ``(length, length)``."""
    return torch.ones(length, length, dtype=torch.bool, device=like.device).triu(1)


def _feed_forward(x: Tensor, fc1: Tensor, fc1_bias: Tensor, fc2: Tensor, fc2_bias: Tensor) -> Tensor:
    return F.linear(torch.relu(F.linear(x, fc1, fc1_bias)), fc2, fc2_bias)


def _topk_attention_twin(query: Tensor, key: Tensor, value: Tensor, k: int, causal: bool) -> Tensor:
    """Makes all scores, and gives the softmax minus infinity for all but the ``k`` largest of a query."""
    scores = query @ key.transpose(2, 3)  # (B, h, n, dh) x (B, h, dh, n) -> (B, h, n, n)
    if causal:
        scores = scores.masked_fill(_future(key.size(2), key), float("-inf"))
    return torch.softmax(keep_largest(scores, k), dim=-1) @ value


def _topk_feed_forward_twin(x: Tensor, fc1: Tensor, fc1_bias: Tensor, fc2: Tensor, fc2_bias: Tensor, k: int) -> Tensor:
    """Makes all hidden units, and sets all but the ``k`` largest of a token to zero after the activation."""
    hidden = F.linear(x, fc1, fc1_bias)
    left_out = keep_largest(hidden, k) == float("-inf")
    return F.linear(torch.relu(hidden).masked_fill(left_out, 0.0), fc2, fc2_bias)


def _chunked_tokens(x: Tensor, fc1: Tensor, fc1_bias: Tensor, fc2: Tensor, fc2_bias: Tensor, chunk: int) -> Tensor:
    return torch.cat([_recomputed(_feed_forward, part, fc1, fc1_bias, fc2, fc2_bias) for part in x.split(chunk)])


def _recomputed(function: Callable[..., Tensor], *arguments: Any) -> Tensor:
    """Computed again when gradients are wanted, so that nothing of it is kept until then."""
    if not torch.is_grad_enabled():
        return function(*arguments)
    return checkpoint(function, *arguments, use_reentrant=False)
