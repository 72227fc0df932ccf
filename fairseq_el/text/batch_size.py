"""The number of lines that are decoded together, and that are read ahead."""

from __future__ import annotations

from typing import Any, Dict, Optional

from fairseq_el.generation import sentences_that_fit

# By the kind of device: more sentences in a batch gain little. A CPU is bound by work, a card by launches up to here.
_ENOUGH = {"cpu": 64, "cuda": 512}
_BATCHES_AHEAD = 8  # within 5 % of sorting all lines, as measured
_USUAL_TOKENS = 32  # of a line
_STEP = 16  # tokens; plans are made for multiples of it


class BatchSize:
    """The number of lines in a batch: as it is given, or as many as fit into memory.

    Attributes:
        window: lines to read ahead.
    """

    def __init__(
        self,
        generator: Any,
        batch_size: Optional[int] = None,
        max_tokens: Optional[int] = None,
        memory: Optional[int] = None,
    ):
        """
        Args:
            batch_size: the most lines.
            max_tokens: the most tokens of the source, padding included.
            memory: bytes for the whole process. Without any of these, it is what is free.
        """
        self._generator, self._batch_size, self._max_tokens, self._memory = generator, batch_size, max_tokens, memory
        self._plans = memory is not None or (batch_size is None and max_tokens is None)
        self._planned: Dict[int, int] = {}
        device = next(generator.model.parameters()).device.type
        self._enough = _ENOUGH.get(device, _ENOUGH["cpu"])
        usual = batch_size or self._enough
        if batch_size is None and max_tokens is not None:
            usual = max(max_tokens // _USUAL_TOKENS, 1)
        self.window = _BATCHES_AHEAD * usual

    def fits(self, longest: int) -> int:
        """Lines of up to ``longest`` tokens that a batch has room for, at least one."""
        limits = [self._enough] if self._batch_size is None and self._max_tokens is None else []
        if self._batch_size is not None:
            limits.append(self._batch_size)
        if self._max_tokens is not None:
            limits.append(self._max_tokens // max(longest, 1))
        if self._plans:
            limits.append(self._plan(-(-max(longest, 1) // _STEP) * _STEP))
        return max(min(limits), 1)

    def _plan(self, src_len: int) -> int:
        if src_len not in self._planned:
            fit = sentences_that_fit(self._generator, src_len, self._memory)
            self._planned[src_len] = self._enough if fit is None else fit
        return self._planned[src_len]
