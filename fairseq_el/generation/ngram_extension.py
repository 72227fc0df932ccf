"""fairseq's CUDA extension that forbids n-grams: used where it works, and never by fairseq's own probe.

``NGramRepeatBlock(n)`` tries the extension with 2 rows of tokens where it says that there are 8 (2 sentences of 4
beams). The kernel reads behind these tokens, and with what it finds there as word numbers it may write anywhere.
"""

from __future__ import annotations

import functools
import logging
from typing import Callable

import torch
from fairseq import ngram_repeat_block
from fairseq.ngram_repeat_block import NGramRepeatBlock
from torch import Tensor

from fairseq_el.ops import block_repeated_ngrams

logger = logging.getLogger(__name__)


def unprobed_blocker(ngram_size: int) -> NGramRepeatBlock:
    """fairseq's module that forbids n-grams, without its extension."""
    return NGramRepeatBlock(ngram_size, use_extension=False)


def stock_blocker(ngram_size: int) -> NGramRepeatBlock:
    """fairseq's module that forbids n-grams, as fairseq makes it: with its extension if that works here."""
    blocker = unprobed_blocker(ngram_size)
    blocker.use_extension = has_ngram_extension()
    return blocker


@functools.lru_cache(maxsize=None)
def has_ngram_extension() -> bool:
    """Returns whether fairseq's extension is compiled, there is a card, and it forbids the right words there."""
    if not ngram_repeat_block.EXTENSION_BUILT or not torch.cuda.is_available():
        return False
    if forbids_the_right_words(ngram_repeat_block.ngram_repeat_block_cuda.forward, "cuda"):
        return True
    logger.warning("fairseq's CUDA extension for n-grams does not work with this torch or card, and is not used")
    return False


def forbids_the_right_words(forward: Callable[..., Tensor], device: str) -> bool:
    """Calls an extension's ``forward`` with as many rows of tokens as of scores, and compares what it forbids.

    Args:
        forward: takes tokens ``(B * b, max_len)``, scores ``(B * b, V)``, ``B``, the step, ``b`` and ``n``.
        device: that its tensors are on.
    """
    words = [[4, 5, 6, 4, 5], [4, 4, 4, 4, 4], [7, 5, 6, 4, 5], [9, 8, 9, 8, 9], [4, 5, 6, 7, 8], [5, 6, 7, 5, 6]]
    tokens = torch.tensor([[*row, 1, 1] for row in words])  # padded, as in a search
    scores = torch.rand(len(words), 12)
    expected = block_repeated_ngrams(scores.clone(), tokens[:, :5], 3)
    try:
        found = forward(tokens.to(device), scores.to(device), 2, 4, 3, 3)
        return torch.equal(found.cpu(), expected)
    except RuntimeError:
        return False
