"""Template of sources: symbols around every text, as the tokenizer that a model was trained with puts them."""

from __future__ import annotations

from typing import Any, Optional, Sequence

import numpy as np
import torch
from fairseq.data import BaseWrapperDataset, LanguagePairDataset
from torch import Tensor

from fairseq_el.errors import OptionError
from fairseq_el.tasks.el_options import is_symbol

TEXT = "X"


class SourceTemplate:
    """Symbols before and after the words of a source, such as ``0,X,2``: ``<s>``, the text, ``</s>``.

    fairseq's own is ``X,2``.
    """

    def __init__(self, before: Sequence[int], after: Sequence[int], eos: int):
        self.before, self.after, self.eos = torch.tensor(before).long(), torch.tensor(after).long(), eos

    @property
    def added(self) -> int:
        """Number of symbols that a source gets beyond fairseq's single eos."""
        return len(self.before) + len(self.after) - 1

    def apply(self, tokens: Tensor, longest: Optional[int] = None) -> Tensor:
        """Makes a source ``(n)``, which ends with fairseq's eos, what the model reads.

        Args:
            longest: largest number of symbols that is kept; the text is cut (default: keep all).
        """
        words = tokens[:-1] if tokens.numel() and int(tokens[-1]) == self.eos else tokens
        if longest is not None:
            words = words[: max(longest - len(self.before) - len(self.after), 0)]
        return torch.cat([self.before.to(words), words, self.after.to(words)])


def source_template(text: str, size: int, eos: int) -> Optional[SourceTemplate]:
    """Reads the option ``--el-source-template``; None if it is not given.

    Raises:
        OptionError: it is not a template.
    """
    if not text:
        return None
    parts = text.split(",")
    numbers = [part for part in parts if part != TEXT]
    if parts.count(TEXT) != 1 or not all(is_symbol(number, size) for number in numbers):
        raise OptionError(
            f"--el-source-template must have one {TEXT}, the text, among numbers of the dictionary's {size} symbols, "
            f"with commas, as 0,{TEXT},2; it is {text}"
        )
    place = parts.index(TEXT)
    return SourceTemplate([int(n) for n in parts[:place]], [int(n) for n in parts[place + 1 :]], eos)


class TemplateDataset(BaseWrapperDataset):
    """Data set of sources with the symbols of a template around them."""

    def __init__(self, dataset: Any, template: SourceTemplate, longest: Optional[int]):
        super().__init__(dataset)
        self.template, self.longest = template, longest
        lengths = np.asarray(dataset.sizes) + template.added
        self._sizes = lengths if longest is None else np.minimum(lengths, longest)

    def __getitem__(self, index: int) -> Tensor:
        return self.template.apply(self.dataset[index], self.longest)

    @property
    def sizes(self) -> Any:
        return self._sizes

    def num_tokens(self, index: int) -> int:
        return int(self._sizes[index])

    def size(self, index: int) -> int:
        return int(self._sizes[index])


def put_around_sources(pairs: LanguagePairDataset, template: SourceTemplate, longest: Optional[int]) -> None:
    """Makes a data set of pairs give its sources as the model reads them."""
    pairs.src = TemplateDataset(pairs.src, template, longest)
    pairs.src_sizes = pairs.src.sizes
    pairs.sizes = pairs.src_sizes if pairs.tgt_sizes is None else np.vstack((pairs.src_sizes, pairs.tgt_sizes)).T
