"""The time that cross-attention takes with each backend, and the choice of the backend for a batch.

An operation takes the larger of its FLOPs at the machine's rate and its bytes at the machine's bandwidth (a roofline).
:mod:`fairseq_el.planning.operations` lists the operations, :mod:`fairseq_el.planning.rates` the machine's numbers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Dict, Iterable, Optional

from fairseq_el.dtypes import DTYPES
from fairseq_el.planning.operations import BACKENDS, CrossAttentionShape, Operation, cross_attention_operations
from fairseq_el.planning.rates import Rates, load_rates
from fairseq_el.units import format_seconds, format_size

# The cost model is off by more than a tenth now and then. Where a backend saves less, the one that keeps less is taken.
WORTHWHILE = 0.9


@dataclass(frozen=True)
class Choice:
    """A backend, and why.

    Attributes:
        backend: a name in ``BACKENDS``.
        reason: one sentence with the numbers.
        seconds: the time of each backend, for all layers and steps.
        state_bytes: the bytes that each backend keeps, the encoder's output included.
    """

    backend: str
    reason: str
    seconds: Dict[str, float]
    state_bytes: Dict[str, int]


def operations_seconds(operations: Iterable[Operation], rates: Rates) -> float:
    """Seconds that operations take one after the other: each is bound by arithmetic or by memory."""
    return sum(
        rates.launch
        + max(operation.flops / getattr(rates, operation.rate), operation.bytes / getattr(rates, operation.bandwidth))
        for operation in operations
    )


def cross_attention_seconds(
    backend: str, model: CrossAttentionShape, batch: int, beam: int, src_len: int, steps: int, dtype: str, rates: Rates
) -> float:
    """Seconds of cross-attention in all layers: of ``steps`` steps, and of what is done once per batch.

    It assumes that all sentences stay to the last step.

    Args:
        backend: as for :func:`cross_attention_operations`.
        dtype: a name in ``fairseq_el.dtypes.DTYPES``.
    """
    operations = cross_attention_operations(backend, model, batch, beam, src_len, DTYPES[dtype].num_bytes)
    per_layer = operations_seconds(operations.once, rates) + steps * operations_seconds(operations.step, rates)
    return model.layers * per_layer


def expected_steps(src_len: int, min_len: int, max_len: int) -> int:
    """Steps that a batch is likely to take: as many as its longest source has tokens, within the limits.

    Translations are about as long as their sources, summaries shorter, but limited by ``max_len`` (``--max-len-b``),
    which fairseq sets to 200 by default, far above what short sentences need.
    """
    return max(min_len, min(max_len, src_len))


def choose_backend(
    model: CrossAttentionShape,
    batch: int,
    beam: int,
    src_len: int,
    steps: int,
    device: str,
    dtype: str,
    budget: Optional[int] = None,
    rates: Optional[Rates] = None,
) -> Choice:
    """The backend for a batch: ``"shared-kv"`` if it fits and saves at least a tenth of the time, or else ``"el"``.

    ``"el"`` keeps least.

    Args:
        model: numbers of the model; ``CrossAttentionShape.of(shape)``.
        steps: the likely number, see :func:`expected_steps`.
        device: ``"cpu"``, ``"cuda"`` or torch's name of another.
        dtype: a name in ``fairseq_el.dtypes.DTYPES``.
        budget: bytes that cross-attention may keep, the encoder's output included (default: any number).
        rates: the machine's (default: :func:`load_rates` of device and dtype).
    """
    known = load_rates(device, dtype) if rates is None else rates
    numbers = (batch, beam, src_len)
    seconds = {backend: cross_attention_seconds(backend, model, *numbers, steps, dtype, known) for backend in BACKENDS}
    state = {
        backend: cross_attention_operations(backend, model, *numbers, DTYPES[dtype].num_bytes).state_bytes
        for backend in BACKENDS
    }
    faster = seconds["shared-kv"] <= WORTHWHILE * seconds["el"]
    fits = budget is None or state["shared-kv"] <= budget
    backend = "shared-kv" if faster and fits else "el"
    return Choice(backend, _reason(seconds, state, budget, faster, fits, _what(batch, src_len, steps)), seconds, state)


def _what(batch: int, src_len: int, steps: int) -> str:
    counted = ((batch, "sentence"), (src_len, "token"), (steps, "step"))
    sentences, tokens, in_steps = (f"{count:,} {noun}{'' if count == 1 else 's'}" for count, noun in counted)
    return f"{sentences} of {tokens}, {in_steps}"


def _reason(
    seconds: Dict[str, float], state: Dict[str, int], budget: Optional[int], faster: bool, fits: bool, what: str
) -> str:
    time = {backend: format_seconds(value) for backend, value in seconds.items()}
    size = {backend: format_size(value) for backend, value in state.items()}
    limit = "" if budget is None else f" of at most {format_size(budget)}"
    if faster and fits:
        return (
            f"shared-kv: {time['shared-kv']} instead of {time['el']} for {what}; "
            f"with its keys and values it keeps {size['shared-kv']}{limit}"
        )
    if faster:
        shared = f"{time['shared-kv']}, but keep {size['shared-kv']}{limit}"
        return f"el: {time['el']} for {what}; shared-kv would take {shared}"
    return (
        f"el: {time['el']} and {size['el']} for {what}; "
        f"shared-kv would take {time['shared-kv']} and keep {size['shared-kv']}"
    )
