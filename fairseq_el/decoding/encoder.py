"""fairseq's Transformer encoder for inference: a part of the batch in flight at a time, without its padding."""

from __future__ import annotations

from typing import Any, Dict, List, NamedTuple, Optional

import torch
from fairseq.models.transformer import TransformerEncoderBase
from torch import Tensor

from fairseq_el.decoding.encoder_output import EncoderOut
from fairseq_el.decoding.layers import has_active_dropout, is_plain_encoder_layer, run_encoder_layer
from fairseq_el.decoding.linears import Linears, has_hooks
from fairseq_el.ops import as_bias
from fairseq_el.policy import sentences_at_once

NetInput = Dict[str, Any]

_METHODS = ("forward", "forward_scriptable", "forward_embedding", "forward_torchscript")


class _Part(NamedTuple):
    """Sentences that are encoded together, and the columns of the batch that they fill."""

    rows: slice
    columns: slice
    padding_mask: Optional[Tensor]  # (B', n'), None where nothing is padded


def encode(encoder: Any, net_input: NetInput, source: Tensor, max_tokens: int) -> EncoderOut:
    """Runs the encoder over a batch.

    Waits for the device once, for the lengths of the sentences.

    Args:
        source: the part of ``net_input`` that the encoder reads. *Shape:* ``(B, n, ...)``.
        max_tokens: positions in flight at a time.

    Returns:
        stock's dictionary with ``encoder_out`` ``(n, B, d)``, a view of contiguous ``(B, n, d)`` storage, and
        ``encoder_padding_mask`` ``(B, n)``, if anything is padded. What stands at padding is not defined.
    """
    if not _is_plain(encoder, net_input):
        return _encode_as_stock(encoder, net_input, source, max_tokens)
    padding_mask = source.eq(encoder.padding_idx)
    parts = _cut(padding_mask, max_tokens)
    padded = any(part.padding_mask is not None or part.columns != slice(0, source.size(1)) for part in parts)
    memory: Optional[Tensor] = None
    for part in parts:
        x = encoder.forward_embedding(source[part.rows, part.columns])[0]  # (B', n', d)
        if part.padding_mask is not None:
            x = x.masked_fill(part.padding_mask.unsqueeze(2), 0.0)
        if memory is None:
            memory = x.new_zeros(*source.shape, x.size(2))
        memory[part.rows, part.columns] = x
    assert memory is not None
    hidden = [None if part.padding_mask is None else part.padding_mask.unsqueeze(1) for part in parts]
    masks = [None if mask is None else as_bias(mask, memory.dtype) for mask in hidden]  # (B', 1, n') each
    for layer in encoder.layers:  # all parts through one layer, then the next: only its weights are there twice
        linears = Linears(source.numel() // len(parts), len(parts))
        for part, mask in zip(parts, masks):
            x = memory[part.rows, part.columns]
            x.copy_(run_encoder_layer(layer, x, mask, linears))
    if encoder.layer_norm is not None:
        for part in parts:
            x = memory[part.rows, part.columns]
            x.copy_(encoder.layer_norm(x))
    return {"encoder_out": [memory.transpose(0, 1)], "encoder_padding_mask": [padding_mask] if padded else []}


def _is_plain(encoder: Any, net_input: NetInput) -> bool:
    return (
        set(net_input) <= {"src_tokens", "src_lengths", "prev_output_tokens"}
        and all(getattr(type(encoder), name) is getattr(TransformerEncoderBase, name) for name in _METHODS)
        and not (encoder.training or has_hooks(encoder) or has_active_dropout(encoder))
        and all(is_plain_encoder_layer(layer) for layer in encoder.layers)
    )


def _cut(padding_mask: Tensor, max_tokens: int) -> List[_Part]:
    """Sentences in their order, as many at a time as fit, without columns in which all of them are padded.

    ``padding_mask``: ``(B, n)``.
    """
    num_sentences, length = padding_mask.shape
    on_host = padding_mask.cpu()
    words = (~on_host).long()
    columns = torch.arange(length)
    begins = torch.where(on_host, length, columns).amin(dim=1).tolist()  # first word of each sentence
    ends = (words * (columns + 1)).amax(dim=1).tolist()  # after its last
    parts = []
    first = 0
    while first < num_sentences:
        last, begin, end = first, begins[first], ends[first]
        while last + 1 < num_sentences:
            wider = min(begin, begins[last + 1]), max(end, ends[last + 1])
            if sentences_at_once(max_tokens, max(wider[1] - wider[0], 1)) < last + 2 - first:
                break
            last, (begin, end) = last + 1, wider
        begin, end = (begin, end) if begin < end else (0, length)  # nothing but padding
        rows, cut = slice(first, last + 1), slice(begin, end)
        padded = bool(on_host[rows, cut].any())
        parts.append(_Part(rows, cut, padding_mask[rows, cut] if padded else None))
        first = last + 1
    return parts


def _encode_as_stock(encoder: Any, net_input: NetInput, source: Tensor, max_tokens: int) -> EncoderOut:
    """Runs the encoder's own ``forward``, with only a part of the batch in flight."""
    num_sentences, length = source.shape[:2]
    part_size = sentences_at_once(max_tokens, length)
    if part_size >= num_sentences:
        whole: EncoderOut = encoder.forward_torchscript(net_input)
        return whole
    memory: Optional[Tensor] = None
    padding_mask: Optional[Tensor] = None
    for begin in range(0, num_sentences, part_size):
        part = slice(begin, begin + part_size)
        out = encoder.forward_torchscript(
            {
                name: value[part] if isinstance(value, Tensor) and value.size(0) == num_sentences else value
                for name, value in net_input.items()
            }
        )
        encoded = out["encoder_out"][0].transpose(0, 1)  # (n, B', d) -> (B', n, d)
        if memory is None:
            memory = encoded.new_empty(num_sentences, *encoded.shape[1:])
        if encoded.shape[1:] != memory.shape[1:]:  # its length depends on which sentences are together
            whole = encoder.forward_torchscript(net_input)
            return whole
        memory[part] = encoded
        if out["encoder_padding_mask"]:
            if padding_mask is None:
                padding_mask = torch.zeros(memory.shape[:2], dtype=torch.bool, device=memory.device)
            padding_mask[part] = out["encoder_padding_mask"][0]
    assert memory is not None
    masks = [] if padding_mask is None else [padding_mask]
    return {"encoder_out": [memory.transpose(0, 1)], "encoder_padding_mask": masks}
