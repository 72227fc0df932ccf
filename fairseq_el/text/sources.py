"""Lines of text as the models read them: tokens, constraints, and data sets of them."""

from __future__ import annotations

from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Tuple

import torch
from fairseq.data import RoundRobinZipDatasets
from fairseq.data.data_utils import collate_tokens
from fairseq.token_generation_constraints import pack_constraints
from torch import Tensor

from fairseq_el.text.loading import Loaded


class Source(NamedTuple):
    """A line that is not empty.

    Attributes:
        number: of the line, from 0.
        tokens: numbers of the dictionary's symbols, the eos included. *Shape:* ``(n)``.
        constraints: words that the output must have, one sequence for each constraint.
        prefix: words that the output begins with. *Shape:* ``(p)``.
    """

    number: int
    tokens: Tensor
    constraints: List[Tensor]
    prefix: Tensor


class Sources:
    """The sources of some lines, and the data set that the task makes of them.

    Attributes:
        each: the sources.
        lengths: tokens of each as the models read them, with what the task adds.
    """

    def __init__(self, loaded: Loaded, each: Sequence[Source]):
        self.each = list(each)
        self._dataset = _dataset_of(loaded, self.each)
        self._pad = loaded.task.target_dictionary.pad()
        self.lengths = [int(self._dataset.num_tokens(i)) for i in range(len(self.each))]

    def sample(self, places: Sequence[int]) -> Dict[str, Any]:
        """A batch as fairseq's data sets make it. Its sentences have the numbers of their lines.

        Args:
            places: of the sources in it.
        """
        sample: Dict[str, Any] = self._dataset.collater([self._dataset[place] for place in places])
        chosen = [self.each[place] for place in sample["id"].tolist()]
        sample["id"] = torch.tensor([source.number for source in chosen])
        if any(len(source.prefix) > 0 for source in chosen):
            sample["prefix_tokens"] = collate_tokens([source.prefix for source in chosen], self._pad)
        return sample


def read_sources(loaded: Loaded, lines: Sequence[Tuple[int, str]], has_prefix: bool = False) -> List[Source]:
    """The sources of numbered lines, as fairseq-interactive reads them; empty lines have none.

    White space at both ends of a line is left out.

    Args:
        has_prefix: lines have the words that the output begins with, after a tab.
    """
    has_constraints = loaded.cfg.generation.constraints is not None
    found = []
    for number, line in lines:
        text = line.strip()
        if not text:
            continue
        constraints: List[str] = []
        prefix = ""
        if has_prefix:
            text, _, prefix = text.partition("\t")
        elif has_constraints:
            text, *constraints = text.split("\t")
        (tokens,), _ = loaded.task.get_interactive_tokens_and_lengths([text], loaded.encode)
        wanted = [_target_words(loaded, each) for each in constraints]
        found.append(Source(number, tokens, wanted, _target_words(loaded, prefix)))
    return found


def truncated(source: Source, excess: int, eos: int) -> Source:
    """The source without its last ``excess`` words."""
    words = source.tokens[:-1] if int(source.tokens[-1]) == eos else source.tokens
    words = words[: max(len(words) - excess, 0)]
    return source._replace(tokens=torch.cat([words, words.new_tensor([eos])]))


def _target_words(loaded: Loaded, text: str) -> Tensor:
    words: Tensor = loaded.task.target_dictionary.encode_line(
        loaded.encode(text) if text else text, append_eos=False, add_if_not_exist=False
    )
    return words.long()


def _dataset_of(loaded: Loaded, sources: Sequence[Source]) -> Any:
    tokens = [source.tokens for source in sources]
    more: Dict[str, Optional[Tensor]] = {}
    if loaded.cfg.generation.constraints is not None:
        more["constraints"] = pack_constraints([source.constraints for source in sources])
    dataset = loaded.task.build_dataset_for_inference(tokens, [len(each) for each in tokens], **more)
    if isinstance(dataset, RoundRobinZipDatasets):  # it has an order of its own
        return dataset.datasets[dataset.eval_key]
    return dataset
