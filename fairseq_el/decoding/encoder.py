"""fairseq's Transformer encoder for inference, and its output, which is kept once per sentence whatever the beam size.

A part of the batch is in flight at a time, without its padding.
"""

from __future__ import annotations

from typing import Any, Dict, List, NamedTuple, Optional

import torch
from fairseq.models.transformer import TransformerEncoderBase
from torch import Tensor

from fairseq_el.decoding.decode_state import EncoderOut
from fairseq_el.decoding.layers import has_active_dropout, is_plain_encoder_layer, run_encoder_layer
from fairseq_el.decoding.linears import Linears, has_hooks
from fairseq_el.decoding.speech_encoder import run_encoder
from fairseq_el.ops import as_bias, keep_rows, storage_bytes
from fairseq_el.policy import sentences_at_once

NetInput = Dict[str, Any]

_METHODS = ("forward", "forward_scriptable", "forward_embedding", "forward_torchscript")


class _Part(NamedTuple):
    """Sentences that are encoded together, and the columns of the batch that they fill."""

    rows: slice
    columns: slice
    padding_mask: Optional[Tensor]  # (B', n'), None where nothing is padded


def encode(
    encoder: Any, net_input: NetInput, source: Tensor, max_tokens: int, linears: Optional[Linears] = None
) -> EncoderOut:
    """Runs the encoder over a batch.

    Waits for the device once, for the lengths of the sentences.

    Args:
        source: the part of ``net_input`` that the encoder reads. *Shape:* ``(B, n, ...)``.
        max_tokens: positions in flight at a time.
        linears: how linear layers of the model are computed, if not as they are.

    Returns:
        stock's dictionary with ``encoder_out`` ``(n, B, d)``, a view of contiguous ``(B, n, d)`` storage, and
        ``encoder_padding_mask`` ``(B, n)``, if anything is padded. Values at padding are undefined. For speech ``n`` is
        the length after convolutions (:func:`~fairseq_el.decoding.speech_encoder.encoded_length`).
    """
    if not is_plain_encoder(encoder, net_input):
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
        of_layer = (linears or Linears(0)).of_encoder(source.numel() // len(parts), len(parts))
        for part, mask in zip(parts, masks):
            x = memory[part.rows, part.columns]
            x.copy_(run_encoder_layer(layer, x, mask, of_layer))
    if encoder.layer_norm is not None:
        for part in parts:
            x = memory[part.rows, part.columns]
            x.copy_(encoder.layer_norm(x))
    return {"encoder_out": [memory.transpose(0, 1)], "encoder_padding_mask": [padding_mask] if padded else []}


def is_plain_encoder(encoder: Any, net_input: NetInput) -> bool:
    """Returns whether an encoder reads nothing but words, and has layers as fairseq's own."""
    return (
        isinstance(encoder, TransformerEncoderBase)
        and set(net_input) <= {"src_tokens", "src_lengths", "prev_output_tokens"}
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
        whole: EncoderOut = run_encoder(encoder, net_input)
        return whole
    memory: Optional[Tensor] = None
    padding_mask: Optional[Tensor] = None
    for begin in range(0, num_sentences, part_size):
        part = slice(begin, begin + part_size)
        out = run_encoder(
            encoder,
            {
                name: value[part] if isinstance(value, Tensor) and value.size(0) == num_sentences else value
                for name, value in net_input.items()
            },
        )
        encoded = out["encoder_out"][0].transpose(0, 1)  # (n, B', d) -> (B', n, d)
        if memory is None:
            memory = encoded.new_empty(num_sentences, *encoded.shape[1:])
        if encoded.shape[1:] != memory.shape[1:]:  # its length depends on which sentences are together
            whole = run_encoder(encoder, net_input)
            return whole
        memory[part] = encoded
        if out["encoder_padding_mask"]:
            if padding_mask is None:
                padding_mask = torch.zeros(memory.shape[:2], dtype=torch.bool, device=memory.device)
            padding_mask[part] = out["encoder_padding_mask"][0]
    assert memory is not None
    masks = [] if padding_mask is None else [padding_mask]
    return {"encoder_out": [memory.transpose(0, 1)], "encoder_padding_mask": masks}


class SharedEncoderOut(Dict[str, List[Tensor]]):
    """fairseq's ``encoder_out`` dictionary, not expanded to beams.

    It has the keys that fairseq's decoders read, with ``B`` sentences where a stock generator has ``B * b`` rows:

    - ``encoder_out``: one tensor. *Shape:* ``(n, B, d)``, a view of contiguous ``(B, n, d)`` storage, so that each
      sentence is one dense matrix;
    - ``encoder_padding_mask``: one tensor, True at padding. *Shape:* ``(B, n)``. Empty when nothing is padded.

    The rest of an encoder's output is dropped: inner states, and the embeddings, which are as large as the output.
    """

    def __init__(self, memory: Tensor, padding_mask: Tensor | None, beam_size: int):
        """
        Args:
            memory: contiguous. *Shape:* ``(B, n, d)``.
            padding_mask: True at padding; None when nothing is padded. *Shape:* ``(B, n)``.
            beam_size: ``b``.
        """
        super().__init__(
            encoder_out=[memory.transpose(0, 1)],  # (B, n, d) -> (n, B, d), no copy
            encoder_padding_mask=[] if padding_mask is None else [padding_mask],
            encoder_embedding=[],
            encoder_states=[],
            fc_results=[],
            src_tokens=[],
            src_lengths=[],
        )
        self.beam_size = beam_size

    @classmethod
    def from_stock(cls, encoder_out: EncoderOut, beam_size: int) -> SharedEncoderOut:
        """Takes what decoding needs from a stock encoder's output. Waits for the device once, to find padding."""
        memory = encoder_out["encoder_out"][0].transpose(0, 1).contiguous()  # (n, B, d) -> (B, n, d)
        masks = encoder_out["encoder_padding_mask"]
        padded = len(masks) > 0 and bool(masks[0].any())
        return cls(memory, masks[0] if padded else None, beam_size)

    def size_bytes(self) -> int:
        """Bytes of the encoder's output and its mask."""
        return sum(storage_bytes(tensor) for tensors in self.values() for tensor in tensors)

    def compact(self, new_order: Tensor, in_place: bool = False) -> SharedEncoderOut:
        """Drops the sentences that ``new_order`` no longer has.

        A search reorders beams within their sentence, and removes whole sentences. So a row's sentence is its index
        divided by the beam size. Where the number of sentences is unchanged, there is nothing to do.

        Args:
            new_order: for each row that stays, the row it continues, sentences in their old order.
                *Shape:* ``(B' * b)`` with ``B' <= B``.
            in_place: overwrite the present storage, which nobody else may use, instead of copying to a new one.
        """
        memory = self["encoder_out"][0].transpose(0, 1)  # (n, B, d) -> (B, n, d)
        if new_order.numel() == memory.size(0) * self.beam_size:
            return self
        sentences = torch.div(new_order[:: self.beam_size], self.beam_size, rounding_mode="floor")
        masks = self["encoder_padding_mask"]
        padding_mask = masks[0].index_select(0, sentences) if masks else None
        memory = keep_rows(memory, sentences) if in_place else memory.index_select(0, sentences)
        return SharedEncoderOut(memory, padding_mask, self.beam_size)


def share_encoder_out(encoder_out: EncoderOut, new_order: Tensor) -> EncoderOut:
    """Stands in for ``encoder.reorder_encoder_out`` while EL-attention is enabled.

    fairseq's generators call it once to expand the encoder's output to ``B * b`` rows, and then after every step to
    follow the beams. Here the first call only notes the beam size, and later ones only drop finished sentences.

    Args:
        encoder_out: what the encoder returned, or what this function returned before.
        new_order: rows to take. *Shape:* ``(B * b)`` at the first call, ``(B' * b)`` later.

    Raises:
        ValueError: the first order does not repeat each sentence for its beams, as beam search does.
    """
    if isinstance(encoder_out, SharedEncoderOut):
        return encoder_out.compact(new_order)
    num_sentences = encoder_out["encoder_out"][0].size(1)
    beam_size = max(new_order.numel() // num_sentences, 1)
    expected = torch.arange(num_sentences, device=new_order.device).repeat_interleave(beam_size)
    if not torch.equal(new_order, expected):
        raise ValueError(
            "EL-attention shares one encoder output among a sentence's beams: the first reordering must repeat each of "
            f"the {num_sentences} sentences once per beam, in order, but it was {new_order.tolist()}. To reorder "
            "encoder outputs in another way, call disable_el_attention(model) first."
        )
    return SharedEncoderOut.from_stock(encoder_out, beam_size)
