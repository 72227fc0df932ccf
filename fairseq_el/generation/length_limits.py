"""Limits of length: of all hypotheses of a batch and, where prompts count, of those of each sentence."""

from __future__ import annotations

from typing import List, Optional

import torch
from torch import Tensor

from fairseq_el.errors import LengthLimitsError, OptionError
from fairseq_el.generation.beams import Kept
from fairseq_el.generation.rules import SearchRules


class LengthLimits:
    """The steps in which the hypotheses of each of ``B`` sentences may end, and must.

    A step appends one word; the first step is 0.

    Attributes:
        prompts: forced words of each sentence, which is the step that appends its first own word.
        may_end: the first step in which each sentence may end.
        last: the step that appends the last word of each sentence.
    """

    def __init__(self, prompts: List[int], may_end: List[int], last: List[int], device: torch.device):
        self.prompts, self.may_end, self.last = prompts, may_end, last
        self._on_device = torch.tensor([prompts, may_end, last], device=device)  # (3, B)

    def prompt_lengths(self) -> Tensor:
        """*Shape:* ``(B, 1)``."""
        return self._on_device[0].unsqueeze(1)

    def last_steps(self) -> Tensor:
        """*Shape:* ``(B, 1)``."""
        return self._on_device[2].unsqueeze(1)

    def too_early(self, step: int, part: slice, beam_size: int) -> Optional[Tensor]:
        """Rows that have left their prompt and may not end yet; None if no row. *Shape:* ``(rows, 1)``."""
        if step >= max(self.may_end[part]):
            return None
        prompts, may_end, _ = self._on_device[:, part]
        return _rows((prompts <= step) & (may_end > step), beam_size)

    def ending(self, step: int, part: slice, beam_size: int) -> Optional[Tensor]:
        """Rows that get their last word; None if no row. *Shape:* ``(rows, 1)``."""
        if step < min(self.last[part]):
            return None
        return _rows(self._on_device[2, part] <= step, beam_size)

    def first_own(self, step: int, part: slice, beam_size: int) -> Optional[Tensor]:
        """Rows that get the first word after their prompt; None if no row. *Shape:* ``(rows, 1)``."""
        if step not in self.prompts[part]:
            return None
        return _rows(self._on_device[0, part] == step, beam_size)

    def keep(self, kept: Kept) -> None:
        """Drops all other sentences."""
        self.prompts, self.may_end, self.last = (
            [values[i] for i in kept.places] for values in (self.prompts, self.may_end, self.last)
        )
        self._on_device = self._on_device.index_select(1, kept.on_device)


def _rows(of_sentences: Tensor, beam_size: int) -> Tensor:
    """``(B)`` to ``(B * b, 1)``."""
    return of_sentences.repeat_interleave(beam_size).unsqueeze(1)


def length_limits(
    rules: SearchRules, prefix_tokens: Optional[Tensor], max_len: int, num_sentences: int, device: torch.device
) -> Optional[LengthLimits]:
    """The limits of each sentence; None where they are the same for all and transformers' rules need none.

    Args:
        prefix_tokens: forced words, padded. *Shape:* ``(B, p)``.
        max_len: words of the longest output of the batch, without eos.

    Raises:
        OptionError: limits after prompts were given and no prompts, or a prompt leaves no room.
    """
    at_least, at_most = rules.min_new_tokens, rules.max_new_tokens
    if at_least is None and at_most is None:
        if rules.transformers is None:
            return None
        prompts = [0] * num_sentences
        if rules.transformers.continues_prompts and prefix_tokens is not None:
            prompts = prompt_lengths(rules.pad, prefix_tokens)
        _check_room(prompts, max_len)
        return LengthLimits(prompts, [rules.min_len] * num_sentences, [max_len] * num_sentences, device)
    prompts = prompt_lengths(rules.pad, prefix_tokens)
    may_end = [max(rules.min_len, length + (at_least or 0)) for length in prompts]
    last = [max_len if at_most is None else min(length + at_most - 1, max_len) for length in prompts]
    return LengthLimits(prompts, may_end, last, device)


def _check_room(prompts: List[int], max_len: int) -> None:
    if max(prompts) > max_len:
        raise OptionError(
            f"a prompt must leave room for one more token; one has {max(prompts) + 1} tokens, and prompt and "
            f"continuation together may have {max_len + 2} (--max-len-b, and the model's positions). Shorten "
            "the prompt, or give a larger --max-len-b or --el-max-new-tokens"
        )


def longest_output(rules: SearchRules, src_len: int, src_lengths: Tensor, prefix_tokens: Optional[Tensor]) -> int:
    """Words that hypotheses of a batch may have, without eos.

    Args:
        src_len: ``n``, positions of the source of the batch.
        src_lengths: *Shape:* ``(B)``.
        prefix_tokens: forced words, padded. *Shape:* ``(B, p)``.

    Raises:
        LengthLimitsError: that is less than they must have.
    """
    if rules.match_source_len:
        max_len = int(src_lengths.max())
        limits = "the longest source of the batch, which --match-source-len goes by"
    elif rules.max_new_tokens is not None:
        longest = max(prompt_lengths(rules.pad, prefix_tokens)) + rules.max_new_tokens
        max_len = min(longest, rules.max_positions) - 1
        limits = (
            f"--el-max-new-tokens {rules.max_new_tokens} after the longest prompt of the batch, less the eos, "
            f"and at most {rules.max_positions - 1}, which the decoder can write"
        )
    else:
        max_len = min(int(rules.max_len_a * src_len + rules.max_len_b), rules.max_positions - 1)
        limits = (
            f"--max-len-a {rules.max_len_a:g} times the {src_len} tokens of the longest source of the batch plus "
            f"--max-len-b {rules.max_len_b}, and at most {rules.max_positions - 1}, which the decoder can write"
        )
    if rules.min_len > max_len:
        raise LengthLimitsError(
            f"--min-len must not be larger than the longest output; it is {rules.min_len}, and the longest output "
            f"has {max_len} words: {limits}. Lower --min-len, or raise the limit."
        )
    return max_len


def prompt_lengths(pad: int, prefix_tokens: Optional[Tensor]) -> List[int]:
    """Forced words of each sentence.

    Raises:
        OptionError: there are no prompts.
    """
    if prefix_tokens is None:
        raise OptionError(
            "min_new_tokens and max_new_tokens need prompts; the generator was called without prefix_tokens"
        )
    lengths: List[int] = prefix_tokens.ne(pad).sum(dim=1).tolist()
    return lengths
