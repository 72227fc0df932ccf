"""Sentences of a data set that a program gets: all of them, or those of its shard."""

from __future__ import annotations

import inspect
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any, Dict, Optional

import numpy as np
from fairseq.data import BaseWrapperDataset, RoundRobinZipDatasets
from fairseq.tasks.fairseq_task import FairseqTask

from fairseq_el.errors import FairseqElError, OptionError

_PARAMETERS = list(inspect.signature(FairseqTask.get_batch_iterator).parameters)[2:]
# fairseq 0.12.2 and 0.12.3 tell get_batch_iterator no program; what each program passes to it tells them apart.
_FOR_TRAINING_ALONE = {"grouped_shuffling", "update_epoch_batch_itr"}
_BY_THE_TRAINER = "skip_remainder_batch"  # for its training and its validation data


class WholeData:
    """Mixin for tasks: outside of training no sentence is lost, and ``--num-shards`` does what it says.

    fairseq 0.12.3 drops the last batch if ``--required-batch-size-multiple`` (default 8) does not divide it. It ignores
    ``--num-shards`` in fairseq-generate and fairseq-validate.

    Attributes:
        keeps_last_training_batch: whether training gets the last batch, too; if not, it loses it as in stock.
        shard: the part of the data that ``--num-shards`` and ``--shard-id`` ask for; None for all.
    """

    keeps_last_training_batch = False
    shard: Optional[Shard] = None

    def get_batch_iterator(self, dataset: Any, *args: Any, **kwargs: Any) -> Any:
        """Makes batches as stock does, of all sentences or those of the shard.

        Raises:
            OptionError: sentences are too long, fairseq-interactive has no shards, or they are asked for in two ways.
            FairseqElError: there is no sentence.
        """
        given: Dict[str, Any] = {**dict(zip(_PARAMETERS, args)), **kwargs}
        if self.keeps_last_training_batch or not _FOR_TRAINING_ALONE & given.keys():
            given["required_batch_size_multiple"] = 1
        if _BY_THE_TRAINER in given:
            return super().get_batch_iterator(dataset, **given)  # type: ignore[misc]
        if self.shard is not None:
            dataset = self.shard.of(dataset, given)
        try:
            batches = super().get_batch_iterator(dataset, **given)  # type: ignore[misc]
            count = len(batches.frozen_batches)
        except Exception as error:
            message = _does_not_fit(error, dataset, given)
            if message is None:
                raise
            raise OptionError(message) from error
        if "num_shards" in given and count <= given["shard_id"]:
            raise FairseqElError(_nothing_left(dataset, count, given))
        return batches


def _does_not_fit(error: Exception, dataset: Any, given: Dict[str, Any]) -> Optional[str]:
    """Explains that sentences do not fit the model or the batches; None if fairseq said something else."""
    said = str(error)
    if said.startswith("Size of sample"):
        return f"{said}. They count source and target tokens. Cut the text, so that no sentence is left out"
    if isinstance(error, AssertionError) and "max_tokens" in said:
        longest = max(dataset.num_tokens(index) for index in range(len(dataset)))
        return (
            f"--max-tokens must hold the longest sentence, {longest}; it is {given['max_tokens']}. It is "
            "how many a batch has, padding included"
        )
    return None


def _nothing_left(dataset: Any, batches: int, given: Dict[str, Any]) -> str:
    if batches > 0:
        return (
            f"--num-shards, or --distributed-world-size, must be at most the number of batches, {batches}; it is "
            f"{given['num_shards']}, and shard {given['shard_id']} has none. Choose a smaller --batch-size"
        )
    if len(dataset) == 0:
        return "The split has no sentences. Choose another with --gen-subset (fairseq-validate: --valid-subset)"
    return (
        f"No sentence is left: the split has {len(dataset)}, and sentences must be as short as the model reads, "
        f"{given.get('max_positions')} tokens (source, target). Cut them, or run fairseq-preprocess on parts of them"
    )


@dataclass(frozen=True)
class Shard:
    """Every ``count``-th sentence, from ``number`` on.

    Shards are of sentences, not of batches as in fairseq-eval-lm: together they are whole even if they are decoded
    with different batch sizes or seeds.
    """

    number: int
    count: int

    def of(self, dataset: Any, given: Dict[str, Any]) -> Any:
        """The shard of a data set.

        Args:
            given: what was passed to ``get_batch_iterator``.
        """
        if "num_shards" not in given:  # fairseq-interactive, which reads sentences from its input
            raise OptionError(
                f"--num-shards must be 1 for input that is not a split of the data; it is {self.count}. Give this "
                "program a part of the input instead"
            )
        if (given["num_shards"], given["shard_id"]) == (self.count, self.number):  # fairseq-eval-lm shards by itself
            return dataset
        if given["num_shards"] != 1:
            raise OptionError(
                f"--num-shards must be 1 where --distributed-world-size shards the data already; they are {self.count} "
                f"and {given['num_shards']}. Leave one of them out"
            )
        if self.number >= len(dataset):
            raise FairseqElError(
                f"--num-shards must be at most the number of sentences, {len(dataset)}; it is {self.count}, and shard "
                f"{self.number} has none"
            )
        if isinstance(dataset, RoundRobinZipDatasets) and dataset.eval_key is not None:
            # It counts sentences in the order of the pair's data set, and so the shard is of that.
            of_pair = _ShardDataset(dataset.datasets[dataset.eval_key], self)
            return RoundRobinZipDatasets(OrderedDict({dataset.eval_key: of_pair}), dataset.eval_key)
        return _ShardDataset(dataset, self)


class _ShardDataset(BaseWrapperDataset):
    """Data set that puts only the sentences of a shard into batches; they keep their numbers."""

    def __init__(self, dataset: Any, shard: Shard):
        super().__init__(dataset)
        self.shard = shard

    def ordered_indices(self) -> Any:
        indices = np.asarray(super().ordered_indices())
        return indices[indices % self.shard.count == self.shard.number]
