"""Blocking of repeated n-grams, for every hypothesis at once and on the device."""

from __future__ import annotations

import torch
from torch import Tensor


def block_repeated_ngrams(scores: Tensor, tokens: Tensor, ngram_size: int) -> Tensor:
    """Forbids the words that would complete an n-gram which the hypothesis has already.

    All windows of ``n - 1`` words are compared with the last ``n - 1`` at once; where they agree, the word that
    followed gets minus infinity. (Paulus et al. 2018, section 2.5.)

    Args:
        scores: of the next word, changed in place. *Shape:* ``(rows, V)``.
        tokens: the words so far, the decoder's first symbol included, not padded. *Shape:* ``(rows, t)``.
        ngram_size: ``n``, at least 1. For ``n = 1`` the first symbol, which is no word of the hypothesis, does not
            count.

    Returns:
        ``scores``.
    """
    if tokens.size(1) < ngram_size:
        return scores
    if scores.device.type == "cpu" and ngram_size > 1:
        return block_where_found(scores, tokens, ngram_size)
    return block_everywhere(scores, tokens, ngram_size)


def block_everywhere(scores: Tensor, tokens: Tensor, ngram_size: int) -> Tensor:
    """Compares all windows, without waiting for a device. There is at least one window."""
    length = tokens.size(1)
    num_windows = length - ngram_size + 1
    begins = torch.ones_like(tokens[:, :num_windows], dtype=torch.bool)  # (rows, windows): the window equals the end
    if ngram_size == 1:
        begins[:, 0] = False
    for offset in range(ngram_size - 1):
        window = tokens[:, offset : offset + num_windows]
        begins &= window == tokens[:, length - ngram_size + 1 + offset].unsqueeze(1)
    followers = tokens[:, ngram_size - 1 :]  # (rows, windows)
    # A word may follow a window that agrees and one that does not: adding 0 leaves what another window has forbidden.
    forbidden = torch.zeros_like(followers, dtype=scores.dtype).masked_fill_(begins, float("-inf"))
    return scores.scatter_add_(1, followers, forbidden)


def block_where_found(scores: Tensor, tokens: Tensor, ngram_size: int) -> Tensor:
    """Compares only the few windows whose first word agrees; for a CPU and ``n > 1``."""
    num_windows = tokens.size(1) - ngram_size + 1
    end = tokens[:, num_windows:]  # the last n - 1 words
    rows, windows = (tokens[:, :num_windows] == end[:, :1]).nonzero(as_tuple=True)
    for offset in range(1, ngram_size - 1):
        agrees = tokens[rows, windows + offset] == end[rows, offset]
        rows, windows = rows[agrees], windows[agrees]
    scores[rows, tokens[rows, windows + ngram_size - 1]] = float("-inf")
    return scores


def block_in_place(scores: Tensor, tokens: Tensor, step: Tensor, ngram_size: int) -> Tensor:
    """Does the same with the number of words on the device, where they are all that it may take.

    Args:
        scores: of the next word, changed in place. *Shape:* ``(rows, V)``.
        tokens: the words so far, then anything that is a word. *Shape:* ``(rows, T)``.
        step: the place of the last word so far. *Shape:* ``(1)``.
        ngram_size: ``n``, at least 1.

    Returns:
        ``scores``.
    """
    num_windows = tokens.size(1) - ngram_size + 1
    if num_windows < 1:
        return scores
    followers = tokens[:, ngram_size - 1 :]  # (rows, windows)
    places = torch.arange(ngram_size - 1, tokens.size(1), device=tokens.device)  # (windows): of the followers
    begins = places <= step
    if ngram_size == 1:
        begins = begins & (places > 0)
    begins = begins.expand_as(followers)
    for offset in range(ngram_size - 1):
        last = (step - (ngram_size - 2 - offset)).clamp(min=0)  # where there are fewer words, no window is complete
        begins = begins & (tokens[:, offset : offset + num_windows] == tokens.index_select(1, last))
    forbidden = torch.zeros_like(followers, dtype=scores.dtype).masked_fill_(begins, float("-inf"))
    return scores.scatter_add_(1, followers, forbidden)
