"""The choice of a cross-attention backend for a batch (``--el-backend auto``)."""

from __future__ import annotations

import functools
import logging
from typing import Any, Optional, Set, Tuple
from weakref import WeakKeyDictionary

from fairseq_el.decoding import cross_attentions
from fairseq_el.dtypes import dtype_name
from fairseq_el.errors import OptionError
from fairseq_el.planning import CrossAttentionShape, Rates, choose_backend, expected_steps, free_memory, load_rates

logger = logging.getLogger(__name__)

_logged: WeakKeyDictionary[Any, Set[str]] = WeakKeyDictionary()  # choices of each model


def choose_for_batch(
    model: Any, num_sentences: int, beam_size: int, src_len: int, limits: Tuple[int, int], budget: Optional[int]
) -> str:
    """Chooses the backend by the planner's cost model, and logs every choice of a model once.

    Args:
        src_len: ``n``.
        limits: shortest and longest output.
        budget: bytes for what cross-attention keeps (default: half of the memory that is free).
    """
    if not hasattr(model, "encoder"):  # a language model has no cross-attention
        return "el"
    attentions = list(cross_attentions(model).values())
    first = attentions[0]
    weight = first.k_proj.weight
    device, dtype = weight.device.type, dtype_name(weight.dtype)
    choice = choose_backend(
        CrossAttentionShape(len(attentions), first.num_heads, first.embed_dim, first.kdim),
        num_sentences,
        beam_size,
        src_len,
        expected_steps(src_len, *limits),
        device,
        dtype,
        _half_of_free(str(weight.device)) if budget is None else budget,
        _rates(device, dtype),
    )
    logged = _logged.setdefault(model, set())
    if choice.backend not in logged:
        logged.add(choice.backend)
        logger.info("--el-backend auto: %s", choice.reason)
    return choice.backend


@functools.lru_cache(maxsize=None)
def _rates(device: str, dtype: str) -> Rates:
    return load_rates(device, dtype)


def _half_of_free(device: str) -> Optional[int]:
    try:
        return free_memory(device) // 2
    except OptionError:  # a system that does not say: keep as little as possible
        return 0
