"""A batch that does not fit into memory is decoded in halves, and these in halves, down to one sentence.

The halves are decoded one after the other, in their order, as parts of the whole batch (see
:mod:`fairseq_el.generation.batch`). Their hypotheses are those of the whole, except where random numbers are drawn:
they are drawn part by part. They are put back before anything is decoded again.
"""

from __future__ import annotations

import logging
from typing import Any, Callable, Dict, List, NamedTuple, Optional

from torch import Tensor

from fairseq_el.errors import OutOfMemoryError, is_out_of_memory
from fairseq_el.generation.batch import Sample, WholeBatch, part_of, rows_of, source_in
from fairseq_el.generation.failures.out_of_memory import (
    Size,
    does_not_fit,
    free_frames,
    return_unused_memory,
    what_to_try,
)
from fairseq_el.generation.hypotheses import Hypotheses
from fairseq_el.generation.random_numbers import RandomState
from fairseq_el.generation.rules import SearchRules

logger = logging.getLogger(__name__)


class MemoryRecord:
    """Batches that have not fitted so far, so that later batches like it are cut before they fail.

    Only what is decoded together depends on it. Batches of shorter sentences are tried whole.
    """

    def __init__(self) -> None:
        self.failed: List[Size] = []
        self.has_warned = False

    def rules_out(self, size: Size) -> bool:
        return size.num_sentences > 1 and any(size.needs_as_much_as(known) for known in self.failed)

    def add(self, size: Size) -> None:
        if not any(size.needs_as_much_as(known) for known in self.failed):
            self.failed.append(size)


class _Batch(NamedTuple):
    """The arguments of a generator's call. Prefixes and constraints, among the options, have a row per sentence."""

    sample: Sample
    options: Dict[str, Any]

    @property
    def source(self) -> Tensor:
        return source_in(self.sample)

    def whole(self, generator: Any) -> WholeBatch:
        return WholeBatch.of(SearchRules.of(generator), self.sample, self.options.get("prefix_tokens"))

    def size(self, generator: Any) -> Size:
        num_sentences, src_len = self.source.shape[:2]
        return Size(num_sentences, src_len, self.whole(generator).max_len)

    def halves(self, generator: Any) -> List[_Batch]:
        whole, num_sentences = self.whole(generator), self.source.size(0)
        middle = (num_sentences + 1) // 2
        return [
            _Batch(part_of(self.sample, rows, whole), rows_of(self.options, rows, num_sentences))
            for rows in (slice(0, middle), slice(middle, num_sentences))
        ]

    def first_number(self) -> int:
        """The number of the first sentence in the data set."""
        ids = self.sample.get("id")
        return int(ids[0]) if isinstance(ids, Tensor) else 0


def decode_in_halves(
    generator: Any, decode: Callable[..., Hypotheses], sample: Sample, options: Dict[str, Any]
) -> Hypotheses:
    """``decode(sample, **options)``, if need be with a part of the sentences at a time.

    Args:
        generator: keeps the :class:`MemoryRecord`, ``memory_record``.

    Raises:
        OutOfMemoryError: a sentence does not fit even alone.
    """
    record: MemoryRecord = generator.memory_record
    pending = [_Batch(sample, options)]
    result: Hypotheses = []
    while pending:
        batch = pending.pop(0)
        hypotheses = None
        if not record.failed or not record.rules_out(batch.size(generator)):
            hypotheses = _attempt(generator, decode, batch)
        if hypotheses is None:
            pending[:0] = batch.halves(generator)
        else:
            result.extend(hypotheses)
    return result


def _attempt(generator: Any, decode: Callable[..., Hypotheses], batch: _Batch) -> Optional[Hypotheses]:
    """The hypotheses; None if the batch does not fit, and then everything is as if it had not been tried."""
    record, device = generator.memory_record, batch.source.device
    random_state = RandomState(device)
    try:
        hypotheses = decode(batch.sample, **batch.options)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        free_frames(error)
        if batch.source.size(0) <= 1:
            message = does_not_fit(generator, batch.size(generator), batch.first_number(), error)
            raise OutOfMemoryError(message) from error
    else:
        if record.failed and not record.has_warned:
            record.has_warned = True
            logger.warning(_warning(generator, batch, draws=random_state.has_moved()))
        return hypotheses
    return_unused_memory(device)  # now that the exception is gone, and what its frames held
    record.add(batch.size(generator))
    random_state.restore()
    return None


def _warning(generator: Any, fitted: _Batch, draws: bool) -> str:
    """``draws``: decoding draws random numbers."""
    failed = generator.memory_record.failed
    hypotheses = (
        "Sampled hypotheses and retained dropout are others than those of whole batches"
        if draws
        else "Hypotheses are the same"
    )
    return (
        f"Decoding {failed[0].num_sentences} sentences of up to {failed[0].src_len} tokens with beam "
        f"{generator.beam_size} ran out of memory. Such batches are decoded in smaller ones, which takes longer. "
        f"{hypotheses}. "
        + what_to_try(generator, failed[0], fitted.source.size(0), min(size.num_sentences for size in failed))
    )
