"""Measures the rates of the cost model (:mod:`fairseq_el.planning.rates`) with the operations that decoding runs."""

from __future__ import annotations

import itertools
import statistics
import time
from typing import Callable, Dict, Iterator, List, Sequence, Tuple

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from fairseq_el.dtypes import DTYPES
from fairseq_el.ops import el_attention, kv_attention
from fairseq_el.planning.calibration import (
    LAYER_SIZES,
    OPERATIONS,
    TINY_LAYER,
    Calibration,
    LayerSize,
    Measurement,
    fit,
    predict,
)
from fairseq_el.planning.operations import BACKENDS
from fairseq_el.planning.rates import default_rates

_NO_CACHE_HOLDS = 256 << 20  # bytes of keys and values that are read in turn, as those of a model's layers are


def num_measurements(dtypes: Sequence[str]) -> int:
    """How often :func:`calibrate` reports progress."""
    return len(dtypes) * (len(BACKENDS) + len(OPERATIONS) * len(LAYER_SIZES))


def calibrate(device: str, dtypes: Sequence[str], progress: Callable[[str], None]) -> Calibration:
    """Measures the rates of a device, in about 10 seconds per dtype on two cores that are free.

    Nothing else should be running: products of two processes that both use all cores wait for each other.

    Args:
        device: ``"cpu"`` or ``"cuda"``.
        dtypes: names in ``DTYPES``.
        progress: called after each of :func:`num_measurements` with what was measured.
    """
    rates, measurements, cores = {}, [], []
    for dtype in dtypes:
        measured: Dict[Tuple[str, LayerSize], float] = {}
        with torch.no_grad():
            for operation, size, call in _calls(device, dtype):
                begin, of_process = time.perf_counter(), time.process_time()
                measured[operation, size] = _seconds(call, device)
                if operation == "projection":
                    cores.append((time.process_time() - of_process) / (time.perf_counter() - begin))
                progress(f"{dtype} {operation} {size}")
        rates[dtype] = fit(measured, DTYPES[dtype].num_bytes, default_rates(device, dtype))
        measurements += [
            Measurement(
                dtype, operation, size, seconds, predict(operation, size, DTYPES[dtype].num_bytes, rates[dtype])
            )
            for (operation, size), seconds in measured.items()
        ]
    return Calibration(device, rates, tuple(measurements), min(cores) if device == "cpu" else None)


def _calls(device: str, dtype: str) -> Iterator[Tuple[str, LayerSize, Callable[[], object]]]:
    """What is measured."""
    for size in (TINY_LAYER, *LAYER_SIZES):
        for operation, call in zip(
            OPERATIONS, _operations(size, device, DTYPES[dtype].torch_dtype, DTYPES[dtype].num_bytes)
        ):
            if size != TINY_LAYER or operation in BACKENDS:
                yield operation, size, call


def _operations(
    size: LayerSize, device: str, dtype: torch.dtype, element_size: int
) -> Tuple[Callable[[], object], ...]:
    """``OPERATIONS`` on random numbers."""

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, device=device).to(dtype)

    head_dim = size.width // size.heads
    query = draw(size.batch, size.beam, size.heads, head_dim)
    memory = draw(size.batch, size.src_len, size.width)
    key_weight, value_weight = (draw(size.width, size.width) / size.width**0.5 for _ in range(2))
    keys = draw(size.batch, size.heads, size.src_len, head_dim)
    num_layers = min(12, max(2, _NO_CACHE_HOLDS // (2 * keys.numel() * element_size)))
    layers = itertools.cycle([(keys.clone(), keys.clone()) for _ in range(num_layers)])

    def project() -> List[Tensor]:
        heads = (size.batch, size.src_len, size.heads, head_dim)
        projected = (F.linear(memory, weight) for weight in (key_weight, value_weight))
        return [tensor.view(heads).transpose(1, 2).contiguous() for tensor in projected]

    def el() -> object:
        return el_attention(query, memory, key_weight, value_weight, softmax_dtype=torch.float32, need_weights=False)

    def shared_kv() -> object:
        return kv_attention(query, *next(layers), softmax_dtype=torch.float32)

    target = torch.empty_like(memory)
    return el, shared_kv, project, lambda: target.copy_(memory)


def _seconds(call: Callable[[], object], device: str) -> float:
    """The median of several runs, each of as many calls as take some milliseconds, after two calls to warm up."""
    once = min(_run(call, 1, device) for _ in range(2))
    calls = max(1, min(200, int(0.005 / once)))
    runs = max(5, min(25, int(0.2 / (once * calls))))
    return statistics.median(_run(call, calls, device) for _ in range(runs)) / calls


def _run(call: Callable[[], object], times: int, device: str) -> float:
    if device == "cuda":
        torch.cuda.synchronize()
    begin = time.perf_counter()
    for _ in range(times):
        call()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - begin
