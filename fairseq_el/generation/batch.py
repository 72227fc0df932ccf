"""A batch as fairseq's data sets make it, its parts, which decode as the whole does, and its way through the search."""

from __future__ import annotations

from typing import Any, Dict, List, Mapping, NamedTuple, Optional, Set, Tuple, Union

import fairseq
import torch
from torch import Tensor

from fairseq_el.decoding import is_features
from fairseq_el.errors import ConstraintsError
from fairseq_el.generation.forced_prefix import forced_lengths
from fairseq_el.generation.hypotheses import Kept
from fairseq_el.generation.random_numbers import SentenceRandom
from fairseq_el.generation.rules import SearchRules, length_limits, longest_output, prompt_widths

Sample = Dict[str, Any]

_WHOLE = "fairseq_el.whole_batch"
_SOURCES = ("src_tokens", "source", "features")  # names of what encoders read

# fairseq 0.12.2 takes the length of a source to be that of its words, without eos, whatever the batch says; later
# versions go by the batch. Only --match-source-len sees it.
_COUNTS_WORDS = fairseq.__version__.startswith("0.12.2")


class WholeBatch(NamedTuple):
    """Decisions of a batch for all its sentences. Parts of it keep to them, so that they get the same hypotheses.

    They keep its padding too: the width of sources decides how long outputs may be, and the width of prefixes decides
    which rules hold.
    """

    max_len: int  # words of the longest output, without eos; unless sentences are decoded as if alone
    reads_prefixes: bool  # whether the words of all prefixes can be read in one pass

    @classmethod
    def of(cls, rules: SearchRules, sample: Sample, prefix_tokens: Optional[Tensor]) -> WholeBatch:
        """The decisions for a batch, or for the whole that it is a part of."""
        known = None if rules.alone else cls.of_part(sample)
        if known is not None:
            return known
        max_len = max(longest_outputs(rules, sample, prefix_tokens))
        lengths = None if prefix_tokens is None else forced_lengths(rules, prefix_tokens, max_len)
        return cls(max_len, lengths is not None)

    @staticmethod
    def of_part(sample: Sample) -> Optional[WholeBatch]:
        """The decisions for the whole, if ``sample`` is a part of a batch."""
        return sample.get(_WHOLE)


def part_of(sample: Sample, rows: slice, whole: WholeBatch) -> Sample:
    """Some sentences of a batch, with their numbers in it, padded as they are there."""
    source = source_in(sample)
    ids = sample.get("id")
    if not isinstance(ids, Tensor):
        ids = torch.arange(source.size(0), device=source.device)
    return {**rows_of({**sample, "id": ids}, rows, source.size(0)), _WHOLE: whole}


def batch_of_one(sample: Sample, i: int, pad: int) -> Sample:
    """A sentence of a batch, with its number, as a data set would give it by itself: without padding."""
    num_sentences = source_in(sample).size(0)
    whole = {name: value for name, value in sample.items() if name != _WHOLE}
    one: Sample = rows_of(whole, slice(i, i + 1), num_sentences)
    tokens = one["net_input"].get("src_tokens")
    if tokens is not None:
        columns = _unpadded(one["net_input"], pad)[0]
        one["net_input"]["src_tokens"] = tokens[:, columns]
    return one


def rows_of(value: Any, rows: slice, num_sentences: int) -> Any:
    """Takes some sentences of tensors and lists with a row or an item for each, and of dictionaries of such."""
    if isinstance(value, Mapping):  # fairseq's language models have an OrderedDict
        return {name: rows_of(item, rows, num_sentences) for name, item in value.items()}
    if isinstance(value, Tensor):
        return value[rows] if value.dim() > 0 and value.size(0) == num_sentences else value
    if type(value) in (list, tuple):
        if len(value) == num_sentences:
            return value[rows]
        return type(value)(rows_of(item, rows, num_sentences) for item in value)
    return value


def source_of(sample: Sample, pad: int, eos: int) -> Tuple[Tensor, Tensor]:
    """:func:`source_in`, and the lengths of the sentences, ``(B)``, as fairseq finds them."""
    source, net_input = source_in(sample), sample["net_input"]
    if "src_tokens" in net_input:
        if "src_lengths" in net_input and (is_features(source) or not _COUNTS_WORDS):
            return source, net_input["src_lengths"]
        return source, (source.ne(eos) & source.ne(pad)).long().sum(dim=1)
    mask = net_input["padding_mask"]
    if mask is not None:
        return source, mask.size(-1) - mask.sum(-1)
    return source, torch.full((source.size(0),), source.size(-1), device=source.device)


def longest_outputs(rules: SearchRules, sample: Sample, prefix_tokens: Optional[Tensor]) -> List[int]:
    """Words that hypotheses of each sentence may have, without eos.

    That is the same for all sentences of a batch, unless each is decoded as if it were alone.

    Raises:
        LengthLimitsError: that is less than ``min_len``.
    """
    source, src_lengths = source_of(sample, rules.pad, rules.eos)
    if not rules.alone:
        return [longest_output(rules, source.size(1), src_lengths, prefix_tokens)] * source.size(0)
    widths = source_widths(sample, rules.pad)
    prefixes = [None] * len(widths) if prefix_tokens is None else prefix_tokens.split(1)
    return [longest_output(rules, *own) for own in zip(widths, src_lengths.split(1), prefixes)]


def source_widths(sample: Sample, pad: int) -> List[int]:
    """Positions that the source of each sentence has without the padding at its ends."""
    source = source_in(sample)
    if "src_tokens" not in sample["net_input"]:
        mask = sample["net_input"].get("padding_mask")
        return [source.size(1)] * source.size(0) if mask is None else (~mask).sum(dim=1).tolist()
    return [columns.stop - columns.start for columns in _unpadded(sample["net_input"], pad)]


def _unpadded(net_input: Dict[str, Any], pad: int) -> List[slice]:
    """The columns of each source without the padding at its ends. Features are padded after their ends."""
    source = net_input["src_tokens"]
    if is_features(source):
        return [slice(0, length) for length in net_input["src_lengths"].tolist()]
    return words_within(source, pad)


def words_within(tokens: Tensor, pad: int) -> List[slice]:
    """The columns of each row of ``tokens`` ``(B, n)`` from its first word to its last."""
    if tokens.size(1) == 0:
        return [slice(0, 0)] * tokens.size(0)
    is_word = tokens.ne(pad)
    number = is_word.to(torch.uint8)  # which argmax takes
    begins, ends = number.argmax(dim=1), tokens.size(1) - number.flip(1).argmax(dim=1)
    ends = ends.where(is_word.any(dim=1), begins)
    return [slice(begin, end) for begin, end in zip(begins.tolist(), ends.tolist())]


def source_in(sample: Sample) -> Tensor:
    """The part of a batch that encoders read. *Shape:* ``(B, n, ...)``."""
    net_input = sample["net_input"]
    for name in _SOURCES:
        if name in net_input:
            source: Tensor = net_input[name]
            return source
    raise ValueError(f"net_input must have src_tokens, source or features; it has {sorted(net_input)}")


def _cut(prefix_tokens: Tensor, longest: List[int], pad: int) -> Tensor:
    """Prefixes without the words that do not fit into each sentence's longest output."""
    columns = torch.arange(prefix_tokens.size(1), device=prefix_tokens.device)
    ends = torch.tensor(longest, device=prefix_tokens.device).unsqueeze(1)
    cut = prefix_tokens.masked_fill(columns >= ends, pad)
    return cut[:, : max(prompt_widths(pad, cut))]


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
            LengthLimitsError, OptionError: see :mod:`fairseq_el.generation.rules`.
        """
        self.net_input = sample["net_input"]
        self.source, self.src_lengths = source_of(sample, rules.pad, rules.eos)
        num_sentences = self.source.size(0)
        device = self.source.device
        if constraints is not None and not rules.strategy.supports_constraints:
            raise ConstraintsError(
                f"{type(rules.strategy).__name__} can't be held to constraints, and the batch has some: "
                "decode with --constraints (and without --sampling and other searches), or leave constraints out."
            )
        self.constraints = constraints
        self._whole = None if rules.alone else WholeBatch.of_part(sample)  # None unless this is a part of a batch
        if self._whole is None:
            longest = longest_outputs(rules, sample, prefix_tokens)
        else:
            longest = [self._whole.max_len] * num_sentences
        self.max_len = max(longest)
        self.limits = length_limits(rules, prefix_tokens, longest, device)
        if rules.alone and prefix_tokens is not None:
            prefix_tokens = _cut(prefix_tokens, longest, rules.pad)
        self.prefix_tokens = prefix_tokens
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

    def random(self, rules: SearchRules) -> SentenceRandom:
        """Generators of random numbers for the sentences, by their numbers in the data set."""
        return SentenceRandom(rules.seed, self.ids.tolist(), self.device)

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
