"""The choice of what decodes a batch: native code, steps that stay in place on a card, or the loop with other steps."""

from __future__ import annotations

import logging
from typing import List, Set, Type, Union

from fairseq_el.generation.batch import ActiveBatch
from fairseq_el.generation.batch_search import BatchSearch
from fairseq_el.generation.ensemble import EnsembleDecoder
from fairseq_el.generation.loop import SearchLoop
from fairseq_el.generation.native_search import NativeSearch
from fairseq_el.generation.reference_step import ReferenceStep
from fairseq_el.generation.rules import SearchRules
from fairseq_el.generation.static_search import StaticSearch
from fairseq_el.generation.step import BeamStep

logger = logging.getLogger(__name__)

# The best first; the last decodes everything.
Implementation = Union[Type[NativeSearch], Type[StaticSearch], Type[BeamStep]]
IMPLEMENTATIONS: List[Implementation] = [NativeSearch, StaticSearch, ReferenceStep]

_logged: Set[str] = set()


def choose_search(rules: SearchRules, batch: ActiveBatch, decoders: EnsembleDecoder) -> BatchSearch:
    """The search by the first of :data:`IMPLEMENTATIONS` that does not refuse; what they say is logged once."""
    for implementation in IMPLEMENTATIONS[:-1]:
        reason = implementation.refusal(rules, batch, decoders)
        if reason is None:
            _log_once(f"Batches are decoded by {implementation.__name__}")
            return _search_by(implementation(rules, batch, decoders))
        if reason:
            _log_once(f"A batch is not decoded by {implementation.__name__}: {reason}")
    return _search_by(IMPLEMENTATIONS[-1](rules, batch, decoders))


def _search_by(implementation: Union[BatchSearch, BeamStep]) -> BatchSearch:
    if isinstance(implementation, BatchSearch):
        return implementation
    return SearchLoop(implementation.rules, implementation.batch, implementation)


def _log_once(message: str) -> None:
    if message not in _logged:
        _logged.add(message)
        logger.info(message)
