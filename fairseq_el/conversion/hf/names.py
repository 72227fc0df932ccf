"""Names and shapes of a layer's tensors in Hugging Face's models and in fairseq's, for both directions.

Shapes are symbols of :class:`~fairseq_el.conversion.hf.families.Sizes`: ``d`` width, ``f`` feed-forward width.
"""

from __future__ import annotations

from typing import Dict, Iterable, List, NamedTuple, Tuple

import torch
from torch import Tensor


class Entry(NamedTuple):
    """One tensor of Hugging Face's, which holds one or more of fairseq's."""

    hf: str
    fairseq: Tuple[str, ...]  # stacked along their first dimension
    shape: Tuple[str, ...]  # of each
    transposed: bool = False  # in Hugging Face's file, after stacking (Conv1D)

    def named(self, hf_prefix: str, fairseq_prefix: str) -> Entry:
        return self._replace(hf=hf_prefix + self.hf, fairseq=tuple(fairseq_prefix + name for name in self.fairseq))

    def split(self, tensor: Tensor) -> Dict[str, Tensor]:
        """fairseq's tensors out of Hugging Face's."""
        if self.transposed:
            tensor = tensor.t()
        return {name: part.contiguous() for name, part in zip(self.fairseq, tensor.chunk(len(self.fairseq)))}

    def join(self, tensors: Dict[str, Tensor]) -> Tensor:
        """Hugging Face's tensor out of fairseq's; the reverse of :meth:`split`."""
        parts = [tensors[name] for name in self.fairseq]
        stacked = parts[0] if len(parts) == 1 else torch.cat(parts)
        return stacked.t().contiguous() if self.transposed else stacked

    def fairseq_shape(self, sizes: Dict[str, int]) -> Tuple[int, ...]:
        """Of each of fairseq's tensors."""
        return tuple(sizes[symbol] for symbol in self.shape)

    def hf_shape(self, sizes: Dict[str, int]) -> Tuple[int, ...]:
        shape = list(self.fairseq_shape(sizes))
        shape[0] *= len(self.fairseq)
        return tuple(reversed(shape)) if self.transposed else tuple(shape)


def _norm(hf: str, fairseq: str = "") -> Tuple[Entry, ...]:
    return tuple(Entry(f"{hf}.{kind}", (f"{fairseq or hf}.{kind}",), ("d",)) for kind in ("weight", "bias"))


def _linear(hf: str, out: str, into: str, fairseq: Tuple[str, ...] = (), transposed: bool = False) -> Tuple[Entry, ...]:
    names = fairseq or (hf,)
    return (
        Entry(f"{hf}.weight", tuple(f"{name}.weight" for name in names), (out, into), transposed),
        Entry(f"{hf}.bias", tuple(f"{name}.bias" for name in names), (out,)),
    )


def _attention(name: str) -> Tuple[Entry, ...]:
    linears: List[Entry] = []
    for part in ("q_proj", "k_proj", "v_proj", "out_proj"):
        linears.extend(_linear(f"{name}.{part}", "d", "d"))
    return (*linears, *_norm(f"{name}_layer_norm"))


_FEED_FORWARD = (*_linear("fc1", "f", "d"), *_linear("fc2", "d", "f"), *_norm("final_layer_norm"))
_QKV = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")

LAYERS = {
    "encoder": (*_attention("self_attn"), *_FEED_FORWARD),
    "decoder": (*_attention("self_attn"), *_attention("encoder_attn"), *_FEED_FORWARD),
}
GPT2_LAYER = (
    *_norm("ln_1", "self_attn_layer_norm"),
    *_linear("attn.c_attn", "d", "d", _QKV, transposed=True),
    *_linear("attn.c_proj", "d", "d", ("self_attn.out_proj",), transposed=True),
    *_norm("ln_2", "final_layer_norm"),
    *_linear("mlp.c_fc", "f", "d", ("fc1",), transposed=True),
    *_linear("mlp.c_proj", "d", "f", ("fc2",), transposed=True),
)


def encoder_decoder(side: str, layers: int, embedding_norm: bool, final_norm: bool) -> Iterable[Entry]:
    """All of one side, but embeddings and positions."""
    for index in range(layers):
        for entry in LAYERS[side]:
            yield entry.named(f"model.{side}.layers.{index}.", f"{side}.layers.{index}.")
    norms = (*(_norm("layernorm_embedding") if embedding_norm else ()), *(_norm("layer_norm") if final_norm else ()))
    for entry in norms:
        yield entry.named(f"model.{side}.", f"{side}.")


def gpt2(layers: int) -> Iterable[Entry]:
    """All of GPT-2, but embeddings and positions."""
    for index in range(layers):
        for entry in GPT2_LAYER:
            yield entry.named(f"transformer.h.{index}.", f"decoder.layers.{index}.")
    for entry in _norm("ln_f", "layer_norm"):
        yield entry.named("transformer.", "decoder.")
