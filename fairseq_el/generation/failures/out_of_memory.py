"""Running out of memory: what to free, and what to tell about it."""

from __future__ import annotations

import gc
import traceback
from dataclasses import replace
from typing import Any, NamedTuple, Optional, Tuple

import torch
from fairseq.search import BeamSearch

from fairseq_el.decoding import backend_of, is_inference_only, self_attention_of
from fairseq_el.dtypes import dtype_name
from fairseq_el.errors import OptionError
from fairseq_el.generation.native_search import native_threads
from fairseq_el.generation.rules import SearchRules
from fairseq_el.generation.static_search import uses_graphs
from fairseq_el.native import reason_against
from fairseq_el.ops import can_pack
from fairseq_el.planning import (
    DEFAULT_OVERHEAD,
    Workload,
    free_memory,
    largest_batch,
    memory,
    process_memory,
    shape_of,
    torch_attention,
)
from fairseq_el.units import format_size


class Size(NamedTuple):
    """The numbers of a batch that the memory for it grows with."""

    num_sentences: int
    src_len: int
    max_len: int

    def needs_as_much_as(self, other: Size) -> bool:
        """Returns whether so many sentences, as long or nearly as long, take as much memory."""
        return (
            self.num_sentences >= other.num_sentences
            and 8 * self.src_len >= 7 * other.src_len
            and 8 * self.max_len >= 7 * other.max_len
        )


def free_frames(error: Optional[BaseException]) -> None:
    """Frees the local variables of the functions that an exception, and those that led to it, passed through."""
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__


def return_unused_memory(device: torch.device) -> None:
    """Gives unused blocks back, so that the next attempt does not find memory in pieces."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def what_to_try(generator: Any, failed: Size, fitted: int, too_many: int) -> str:
    """Says in one sentence which batch size to use: the one that ``fairseq-el plan`` computes, if experience agrees.

    Args:
        failed: the batch that did not fit.
        fitted: a number of its sentences that did.
        too_many: the smallest number that did not.
    """
    plan = _plan(generator, failed)
    if plan is not None and fitted <= plan.fits < too_many:
        return (
            f"By the arithmetic of `fairseq-el plan`, {plan.fits} of them fit in the {format_size(plan.usable)} that "
            f"this process can use: --batch-size {plan.fits}."
        )
    return f"Batches of {fitted} fitted: --batch-size {fitted}."


def does_not_fit(generator: Any, failed: Size, number: int, error: BaseException) -> str:
    """The message for a single sentence that does not fit. ``number``: its number in the data set."""
    what = f"Decoding sentence {number}, {failed.src_len} tokens, by itself with beam {generator.beam_size} and outputs"
    said = str(error).partition("\n")[0][:200]
    what += f" of up to {failed.max_len} words ran out of memory ({type(error).__name__}: {said})"
    plan = _plan(generator, failed)
    why = ""
    if plan is not None:
        needed, usable = format_size(plan.needed), format_size(plan.usable)
        why = f" By the arithmetic of `fairseq-el plan` it takes {needed} of the {usable} that this process can use" + (
            "; something else needs memory too." if plan.needed <= plan.usable else "."
        )
    return f"{what}.{why} Use a smaller --beam, --max-len-a or --max-len-b, or leave out sources that are so long."


class _Plan(NamedTuple):
    fits: int  # sentences
    needed: int  # bytes for the batch
    usable: int  # bytes


def sentences_that_fit(generator: Any, src_len: int, limit: Optional[int] = None) -> Optional[int]:
    """The most sentences of ``src_len`` tokens that a batch can have, by the arithmetic of ``fairseq-el plan``.

    Args:
        limit: bytes of memory for the whole process (default: what it uses, and what is free).

    Returns:
        the number, 0 if not even one fits; None for models, dtypes and systems that the arithmetic does not know.
    """
    plan = _plan(generator, Size(1, src_len, SearchRules.of(generator).max_len_for(src_len)), limit)
    return None if plan is None else plan.fits


def _plan(generator: Any, size: Size, limit: Optional[int] = None) -> Optional[_Plan]:
    """Returns what ``fairseq-el plan`` says; None for models, dtypes and systems that it does not know."""
    models = list(generator.model.models)
    parameter = next(models[0].parameters(), None)
    try:
        shape = shape_of(models[0])
        device, dtype = parameter.device.type, dtype_name(parameter.dtype)  # type: ignore[union-attr]
        work = Workload(
            batch=size.num_sentences,
            beam=generator.beam_size,
            src_len=size.src_len,
            tgt_len=size.max_len,
            dtype=dtype,
            encoder_tokens=generator.encoder_tokens,
            overhead=DEFAULT_OVERHEAD,
            device=device,
            torch_attention=torch_attention(device, dtype),
            can_pack=can_pack(device, parameter.dtype),  # type: ignore[union-attr]
            keeps_packed=is_inference_only(models[0]),
            native_threads=native_threads(device, dtype, generator.beam_size, shape.vocab_size)
            if _may_be_native(generator, shape.decoder_only)
            else 0,
            graphs=_may_have_graphs(generator, shape.decoder_only),
        )
        place = str(parameter.device)  # type: ignore[union-attr]
        usable = free_memory(place) + process_memory(place) if limit is None else limit
        fits, needed = _with_backends(models[0], work, usable // len(models))
        return _Plan(fits, needed * len(models), usable)
    except (KeyError, ValueError, AttributeError, OptionError):
        return None


def _may_be_native(generator: Any, decoder_only: bool) -> bool:
    """Returns whether batches of a generator are decoded in native code, as far as that does not depend on them."""
    models = list(generator.model.models)
    return (
        len(models) == 1
        and type(generator.search) is BeamSearch
        and generator.transformers_rules is None
        and generator.on_step is None
        and (decoder_only or not generator.record_attention)
        and reason_against(models[0]) is None
    )


def _may_have_graphs(generator: Any, decoder_only: bool) -> bool:
    """Returns whether a card replays steps from CUDA graphs, as far as that does not depend on batches."""
    models = list(generator.model.models)
    device = next(models[0].parameters()).device
    return (
        device.type == "cuda"
        and uses_graphs(generator.cuda_graphs, device)
        and len(models) == 1
        and type(generator.search) is BeamSearch
        and generator.transformers_rules is None
        and generator.on_step is None
        and (decoder_only or not generator.record_attention)
    )


def _with_backends(model: Any, work: Workload, limit: int) -> Tuple[int, int]:
    """The most sentences that fit, and the bytes of this batch.

    Where the backend is chosen batch by batch, with the one that keeps more, if that fits at all.
    """
    backend = backend_of(model)
    fits = needed = 0
    for known in ("shared-kv", "el") if backend == "auto" else (backend,):
        if fits == 0:
            work = replace(work, backend=known)
            fits = largest_batch(self_attention_of(model), shape_of(model), work, limit)
            needed = memory(self_attention_of(model), shape_of(model), work).total
    return fits, needed
