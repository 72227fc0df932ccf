"""Cross-entropy of a SLiM Performer, whole or slice by slice."""

from __future__ import annotations

from typing import Tuple

import torch
from torch import Tensor
from torch.nn import functional

from fairseq_el.modules.slim_decoder import SlimDecoder
from fairseq_el.ops import Attend, attend_within, sliced_loss


def slim_cross_entropy(
    decoder: SlimDecoder, tokens: Tensor, target: Tensor, slice_length: int = 0, count_right: bool = False
) -> Tuple[Tensor, Tensor]:
    """The loss over all words of ``target`` that are no padding, in nats: a sum.

    Args:
        tokens: *Shape:* ``(B, L)``.
        target: the words to predict. *Shape:* ``(B, L)``.
        slice_length: ``C``: embeddings, activations and logits are in memory for so many positions at a time, in the
            backward pass too; 0 for all at once. Gradients are the same.
        count_right: also count the words that are predicted right.

    Returns:
        the loss, and how many words are right (0 if that is not counted).
    """
    length = slice_length or tokens.size(1)
    right = [target.new_zeros(())] * -(-tokens.size(1) // length)

    def run_slice(index: int, attend: Attend) -> Tensor:
        begin = index * length
        here = slice(begin, begin + length)
        logits = decoder.output_layer(decoder.features(tokens[:, here], begin, attend)).flatten(0, 1)
        words = target[:, here].flatten()
        if count_right:
            right[index] = ((logits.detach().argmax(dim=1) == words) & (words != decoder.padding_idx)).sum()
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        return functional.cross_entropy(logits, words, ignore_index=decoder.padding_idx, reduction="sum")

    loss = run_slice(0, attend_within) if len(right) == 1 else sliced_loss(run_slice, len(right))
    return loss, torch.stack(right).sum()
