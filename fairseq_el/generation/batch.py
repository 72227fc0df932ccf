"""A batch as fairseq's data sets make it, and its parts, which decode as the whole does."""

from __future__ import annotations

from typing import Any, Dict, Mapping, NamedTuple, Optional, Tuple

import fairseq
import torch
from torch import Tensor

from fairseq_el.generation.forced_prefix import forced_lengths
from fairseq_el.generation.length_limits import longest_output
from fairseq_el.generation.rules import SearchRules

Sample = Dict[str, Any]

_WHOLE = "fairseq_el.whole_batch"
_SOURCES = ("src_tokens", "source", "features")  # names of what encoders read

# fairseq 0.12.2 takes the length of a source to be that of its words, without eos, whatever the batch says; later
# versions go by the batch. Only --match-source-len sees it.
_COUNTS_WORDS = fairseq.__version__.startswith("0.12.2")


class WholeBatch(NamedTuple):
    """Decisions of a batch for all its sentences. Parts of it keep to them, so that they get the same hypotheses.

    They keep its padding too: the width of sources decides how long outputs may be, that of prefixes which rules hold.
    """

    max_len: int  # words of the longest output, without eos
    reads_prefixes: bool  # whether the words of all prefixes can be read in one pass

    @classmethod
    def of(cls, rules: SearchRules, sample: Sample, prefix_tokens: Optional[Tensor]) -> WholeBatch:
        """The decisions for a batch, or for the whole that it is a part of."""
        known = cls.of_part(sample)
        if known is not None:
            return known
        source, src_lengths = source_of(sample, rules.pad, rules.eos)
        max_len = longest_output(rules, source.size(1), src_lengths, prefix_tokens)
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
        if "src_lengths" in net_input and not _COUNTS_WORDS:
            return source, net_input["src_lengths"]
        return source, (source.ne(eos) & source.ne(pad)).long().sum(dim=1)
    mask = net_input["padding_mask"]
    if mask is not None:
        return source, mask.size(-1) - mask.sum(-1)
    return source, torch.full((source.size(0),), source.size(-1), device=source.device)


def source_in(sample: Sample) -> Tensor:
    """The part of a batch that encoders read. *Shape:* ``(B, n, ...)``."""
    net_input = sample["net_input"]
    for name in _SOURCES:
        if name in net_input:
            source: Tensor = net_input[name]
            return source
    raise ValueError(f"net_input must have src_tokens, source or features; it has {sorted(net_input)}")
