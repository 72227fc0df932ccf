"""The choice of the code that computes the steps of a batch."""

from __future__ import annotations

import logging
from typing import List, Set, Type

from fairseq_el.generation.active_batch import ActiveBatch
from fairseq_el.generation.ensemble import EnsembleDecoder
from fairseq_el.generation.reference_step import ReferenceStep
from fairseq_el.generation.rules import SearchRules
from fairseq_el.generation.step import BeamStep

logger = logging.getLogger(__name__)

# The best first; the last decodes everything.
IMPLEMENTATIONS: List[Type[BeamStep]] = [ReferenceStep]

_logged: Set[str] = set()


def choose_step(rules: SearchRules, batch: ActiveBatch, decoders: EnsembleDecoder) -> BeamStep:
    """A step of the first class in :data:`IMPLEMENTATIONS` that does not refuse; each reason is logged once."""
    for implementation in IMPLEMENTATIONS[:-1]:
        reason = implementation.refusal(rules, batch, decoders)
        if reason is None:
            _log_once(f"Batches are decoded by {implementation.__name__}")
            return implementation(rules, batch, decoders)
        _log_once(f"A batch is not decoded by {implementation.__name__}: {reason}")
    return IMPLEMENTATIONS[-1](rules, batch, decoders)


def _log_once(message: str) -> None:
    if message not in _logged:
        _logged.add(message)
        logger.info(message)
