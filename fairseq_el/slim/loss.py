"""Cross-entropy of a SLiM Performer, whole or slice by slice."""

from __future__ import annotations

from typing import List, Tuple

import torch
from torch import Tensor
from torch.nn import functional

from fairseq_el.ops import Attend, attend_within, sliced_loss
from fairseq_el.slim.decoder import SlimDecoder


def slim_cross_entropy(
    decoder: SlimDecoder, tokens: Tensor, target: Tensor, slice_length: int = 0, count_right: bool = False
) -> Tuple[Tensor, Tensor]:
    """Sums the loss over all words of ``target`` that are not padding, in nats.

    Args:
        tokens: *Shape:* ``(B, L)``.
        target: the words to predict. *Shape:* ``(B, L)``.
        slice_length: ``C``: embeddings, activations and logits are in memory for so many positions at a time, in the
            backward pass too; 0 for all at once. Gradients are the same.
        count_right: also count the words that are predicted right.

    Returns:
        the loss, and how many words are right (0 if that is not counted).

    Raises:
        ValueError: there are no words.
    """
    if tokens.numel() == 0:
        raise ValueError(f"slim_cross_entropy needs at least one word; tokens have the shape {tuple(tokens.shape)}")
    length = slice_length or tokens.size(1)
    num_slices = -(-tokens.size(1) // length)
    right: List[Tensor] = []

    def run_slice(index: int, attend: Attend) -> Tensor:
        begin = index * length
        here = slice(begin, begin + length)
        logits = decoder.output_layer(decoder.features(tokens[:, here], begin, attend)).flatten(0, 1)
        words = target[:, here].flatten()
        if count_right and len(right) == index:  # and not again in the backward pass
            right.append(((logits.detach().argmax(dim=1) == words) & (words != decoder.padding_idx)).sum())
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        return functional.cross_entropy(logits, words, ignore_index=decoder.padding_idx, reduction="sum")

    loss = run_slice(0, attend_within) if num_slices == 1 else sliced_loss(run_slice, num_slices)
    return loss, torch.stack(right).sum() if right else target.new_zeros(())
