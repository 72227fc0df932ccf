"""Decoding that ran out of memory: an error that names a batch size which fits."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Dict, Sequence

from torch import nn

from fairseq_el.errors import OptionError, OutOfMemoryError
from fairseq_el.modules import backend_of, is_final, self_attention_of
from fairseq_el.ops import can_pack
from fairseq_el.planning import (
    DEFAULT_OVERHEAD,
    Workload,
    format_size,
    free_memory,
    keeps_scores,
    largest_batch,
    own_memory,
    place_of,
    shape_of,
)
from fairseq_el.planning.dtypes import dtype_name


def is_out_of_memory(error: BaseException) -> bool:
    """Whether torch could not allocate a tensor, on any device."""
    said = str(error)
    return isinstance(error, (RuntimeError, MemoryError)) and (
        isinstance(error, MemoryError) or "out of memory" in said or "can't allocate memory" in said
    )


def out_of_memory(models: Sequence[nn.Module], sample: Dict[str, Any], generator: Any) -> OutOfMemoryError:
    """The error that says how large a batch of such sentences fits, by the arithmetic of ``fairseq-el plan``."""
    source = sample["net_input"]["src_tokens"]
    batch, src_len = source.shape[:2]
    tgt_len = min(int(generator.max_len_a * src_len + generator.max_len_b), generator.max_len - 1)
    what = f"Decoding {batch} sentences of up to {src_len} tokens, beam {generator.beam_size}, ran out of memory"
    place, numbers = place_of(models[0])
    device = place.type
    try:
        dtype = dtype_name(numbers)
        work = Workload(
            batch=batch,
            beam=generator.beam_size,
            src_len=src_len,
            tgt_len=tgt_len,
            dtype=dtype,
            encoder_tokens=generator.encoder_tokens,
            overhead=DEFAULT_OVERHEAD,
            device=device,
            scores_kept=keeps_scores(device, dtype),
            can_pack=can_pack(device, numbers),
            packs_last=is_final(models[0]),
        )
        usable = free_memory(device) + own_memory(device)
        fits = _largest_batch(models[0], work, usable // len(models))
    except (KeyError, ValueError, AttributeError, OptionError):  # a model, dtype or system that plan does not know
        return OutOfMemoryError(f"{what}. Decode with a smaller batch: --batch-size {max(batch // 2, 1)}.")
    plan = f"By the arithmetic of `fairseq-el plan`, {fits} of them fit in the {format_size(usable)} that it can use"
    if fits < 1:
        return OutOfMemoryError(f"{what}. {plan}: not even one. Use a smaller --beam, --max-len-b or shorter sources.")
    if fits >= batch:  # something else needs memory as well, or it is in pieces
        fits = max(batch // 2, 1)
        plan = (
            f"By the arithmetic of `fairseq-el plan` they fit in the {format_size(usable)} that it can use, so "
            "something else needs memory too; try half as many"
        )
    return OutOfMemoryError(f"{what}. {plan}: --batch-size {fits}.")


def _largest_batch(model: Any, work: Workload, limit: int) -> int:
    """The most sentences that fit; where the backend is chosen batch by batch, with the one that keeps more."""
    backend = backend_of(model)
    fits = 0
    for known in ("shared-kv", "el") if backend == "auto" else (backend,):
        fits = fits or largest_batch(self_attention_of(model), shape_of(model), replace(work, backend=known), limit)
    return fits
