"""The sentences of a batch that are still decoded, and what is known of each."""

from __future__ import annotations

from typing import List, Optional, Set, Union

import torch
from torch import Tensor

from fairseq_el.errors import ConstraintsError
from fairseq_el.generation.batch import Sample, WholeBatch, source_of
from fairseq_el.generation.beams import Kept
from fairseq_el.generation.forced_prefix import forced_lengths
from fairseq_el.generation.length_limits import length_limits, longest_output
from fairseq_el.generation.rules import SearchRules


class ActiveBatch:
    """A batch on its way through the search. Finished sentences leave it, a few at a time.

    Symbols: ``B`` sentences still decoded, ``n`` positions of the source.

    Attributes:
        source: the part of ``net_input`` that encoders read, of the whole batch. *Shape:* ``(B, n, ...)``.
        net_input: all that models read, of the whole batch.
        constraints: packed as fairseq has them, of the whole batch, or None.
        first: the symbol that each sentence begins with, of the whole batch. *Shape:* ``(B)``.
        max_len: words of the longest output, without eos.
        sentences: the numbers, in the batch, of the sentences still decoded.
        finished: numbers in the batch. Some of these may be among ``sentences`` for a few steps more.
        ids: the numbers that the data set has given them. *Shape:* ``(B)``.
        src_lengths: *Shape:* ``(B)``.
        prefix_tokens: forced words, padded, or None. *Shape:* ``(B, p)``.
        limits: where the limits of length are not the same for all.
    """

    def __init__(
        self,
        rules: SearchRules,
        sample: Sample,
        prefix_tokens: Optional[Tensor],
        constraints: Optional[Tensor],
        first_symbol: Union[int, Tensor, None],
    ):
        """``first_symbol``: of all sentences or of each ``(B)``; by default the eos.

        Raises:
            ConstraintsError: the batch has constraints, and the strategy does not know them.
            LengthLimitsError, OptionError: see :mod:`fairseq_el.generation.length_limits`.
        """
        self.net_input = sample["net_input"]
        self.source, self.src_lengths = source_of(sample, rules.pad, rules.eos)
        num_sentences, src_len = self.source.shape[:2]
        device = self.source.device
        if constraints is not None and not rules.strategy.supports_constraints:
            raise ConstraintsError(
                f"{type(rules.strategy).__name__} can't be held to constraints, and the batch has some: "
                "decode with --constraints (and without --sampling and other searches), or leave constraints out."
            )
        self.constraints = constraints
        self.prefix_tokens = prefix_tokens
        self._whole = WholeBatch.of_part(sample)  # None unless this is a part of a batch
        self.max_len = (
            longest_output(rules, src_len, self.src_lengths, prefix_tokens)
            if self._whole is None
            else self._whole.max_len
        )
        self.limits = length_limits(rules, prefix_tokens, self.max_len, num_sentences, device)
        self.sentences: List[int] = list(range(num_sentences))
        self.finished: Set[int] = set()
        ids = sample.get("id")
        self.ids: Tensor = ids if isinstance(ids, Tensor) else torch.arange(num_sentences).to(device)
        self.first = torch.full((num_sentences,), rules.eos, device=device)
        if first_symbol is not None:
            self.first[:] = first_symbol

    @property
    def device(self) -> torch.device:
        return self.source.device

    def forced_lengths(self, rules: SearchRules) -> Optional[List[int]]:
        """Words of each sentence's prefix, if all prefixes can be read in one pass; else None."""
        if self.prefix_tokens is None or (self._whole is not None and not self._whole.reads_prefixes):
            return None
        return forced_lengths(rules, self.prefix_tokens, self.max_len)

    def in_prefix(self, step: int) -> bool:
        """Returns whether prefixes may still force words in this step."""
        prefix = self.prefix_tokens
        return prefix is not None and step < prefix.size(1) and step < self.max_len

    def last_step(self, i: int) -> int:
        """The step that appends the last word of the ``i``-th of :attr:`sentences`."""
        return self.max_len if self.limits is None else self.limits.last[i]

    def remaining(self) -> List[int]:
        """The places in :attr:`sentences` of those that are not finished."""
        return [i for i, sentence in enumerate(self.sentences) if sentence not in self.finished]

    def keep(self, kept: Kept) -> None:
        """Drops all other sentences."""
        self.sentences = [self.sentences[i] for i in kept.places]
        self.ids = self.ids.index_select(0, kept.on_device.to(self.ids.device))
        self.src_lengths = self.src_lengths.index_select(0, kept.on_device)
        if self.prefix_tokens is not None:
            self.prefix_tokens = self.prefix_tokens.index_select(0, kept.on_device)
        if self.limits is not None:
            self.limits.keep(kept)
