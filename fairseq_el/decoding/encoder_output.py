"""The encoder's output during decoding: kept once per sentence, whatever the beam size."""

from __future__ import annotations

from typing import Dict, List

import torch
from torch import Tensor

from fairseq_el.ops import keep_rows

EncoderOut = Dict[str, List[Tensor]]


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
        """Takes what decoding needs from a stock encoder's output. Waits for the device once: is anything padded?"""
        memory = encoder_out["encoder_out"][0].transpose(0, 1).contiguous()  # (n, B, d) -> (B, n, d)
        masks = encoder_out["encoder_padding_mask"]
        padded = len(masks) > 0 and bool(masks[0].any())
        return cls(memory, masks[0] if padded else None, beam_size)

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
