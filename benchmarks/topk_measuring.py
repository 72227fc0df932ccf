"""Measures top-k attention and feed-forward beside the exact layers: outputs, live bytes, time."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple, Union

import torch
from exact_and_topk_layers import AttentionLayers, BlockLayers, FeedForwardLayers, LayerMethod
from torch import Tensor

from fairseq_el.dtypes import DTYPES
from fairseq_el.errors import FairseqElError
from fairseq_el.measure import Spread, peak_bytes, rotated, seconds_of, spread, times_faster

Layers = Union[AttentionLayers, BlockLayers, FeedForwardLayers]
DIRECTIONS = ("forward", "both")

CHECKED = 512  # positions, in checks: several chunks, and small enough for everything at once in float64
_TOLERANCE = 1e-9  # in float64, of the largest number
_ROUNDING_FACTOR = 4.0  # of the twin's own error in the dtype: sums over chunks round more often
_ROUNDING_FLOOR = 1e-2  # below, rounding may have chosen another one of nearly equal scores


@dataclass(frozen=True)
class TopkSettings:
    """The options of ``topk_layers.py``.

    Attributes:
        layers: what is measured, one after the other.
        baseline: what the other methods are compared with.
        directions: ``"forward"`` (without gradients) or ``"both"`` (forward and backward).
        runs: timed rounds; 0 to count bytes only.
        memory: bytes that a method may need; those that need more are left out.
        command: that was given.
    """

    layers: Sequence[Layers]
    methods: Sequence[LayerMethod]
    baseline: LayerMethod
    directions: Sequence[str]
    runs: int
    memory: int
    dtype: str = "fp32"
    device: str = "cpu"
    threads: int = 1
    command: str = ""


@dataclass(frozen=True)
class TopkResult:
    """One method on one stack of layers.

    Attributes:
        sizes: of the layers.
        given_bytes: of inputs that require gradients, weights among them, and of the gradient of the output.
        peak_bytes: of live tensors at most, with ``given_bytes``. None where torch can't count them, or left out.
        expected_bytes: about what the method needs, where that is more than it may.
        seconds: of every round.
        faster: how many times as fast as the baseline, in every round.
    """

    method: LayerMethod
    direction: str
    sizes: Dict[str, int]
    given_bytes: int
    peak_bytes: Optional[int] = None
    expected_bytes: Optional[int] = None
    seconds: Sequence[float] = ()
    faster: Optional[Spread] = None

    @property
    def median(self) -> Optional[float]:
        return spread(self.seconds).median if self.seconds else None


Progress = Callable[[str], None]


def measure_topk_layers(settings: TopkSettings, progress: Progress = lambda what: None) -> List[TopkResult]:
    """Checks all methods, and then measures them.

    Raises:
        FairseqElError: outputs or gradients are not what they should be; nothing was measured then.
    """
    torch.set_num_threads(settings.threads)
    for layers in dict.fromkeys(layers.small(CHECKED) for layers in settings.layers):
        for method in settings.methods:
            progress(f"{method.label}: outputs and gradients")
            _check_in_float64(settings, layers, method)
            _check_rounding(settings, replace(layers, layers=1), method)
    results = []
    for layers in settings.layers:
        for direction in settings.directions:
            results += _measure(settings, layers, direction, progress)
    return results


def _check_in_float64(settings: TopkSettings, layers: Layers, method: LayerMethod) -> None:
    inputs, towards = _inputs(settings, layers, torch.float64), _towards(settings, layers, torch.float64)
    found = (_with_gradients(compute, method, inputs, towards) for compute in (layers.output, layers.twin))
    for mine, expected in zip(*found):
        difference = float((mine - expected).abs().max() / expected.abs().max())
        if not difference <= _TOLERANCE:
            raise FairseqElError(
                f"{_described(layers, method)}: an output or gradient differs in float64 by {difference:.2g} of its "
                f"largest number; {_TOLERANCE:g} is allowed, so no times are reported"
            )


def _check_rounding(settings: TopkSettings, layers: Layers, method: LayerMethod) -> None:
    dtype = DTYPES[settings.dtype].torch_dtype
    inputs, towards = _inputs(settings, layers, dtype), _towards(settings, layers, dtype)
    rounded = [_with_gradients(compute, method, inputs, towards) for compute in (layers.output, layers.twin)]
    exact_inputs = [x.detach().double().requires_grad_() for x in inputs]
    exact = _with_gradients(layers.twin, method, exact_inputs, towards.double())
    for mine, plain, expected in zip(*rounded, exact):
        error, of_plain = (float((x.double() - expected).norm() / expected.norm()) for x in (mine, plain))
        if not error <= max(_ROUNDING_FACTOR * of_plain, _ROUNDING_FLOOR):
            raise FairseqElError(
                f"{_described(layers, method)}: an output or gradient is off in {settings.dtype} by {error:.2g} of its "
                f"size, the plain computation by {of_plain:.2g}; {_ROUNDING_FACTOR:g} times as much is allowed, so "
                "no times are reported"
            )


def _with_gradients(
    compute: Callable[[LayerMethod, Sequence[Tensor]], Tensor],
    method: LayerMethod,
    inputs: Sequence[Tensor],
    towards: Tensor,
) -> Tuple[Tensor, ...]:
    output = compute(method, inputs)
    return (output.detach(), *torch.autograd.grad(output, list(inputs), towards))


def _measure(settings: TopkSettings, layers: Layers, direction: str, progress: Progress) -> List[TopkResult]:
    backward = direction == "both"
    dtype = DTYPES[settings.dtype].torch_dtype
    inputs, towards = _inputs(settings, layers, dtype), _towards(settings, layers, dtype) if backward else None
    given = inputs if towards is None else [*inputs, towards]
    given_bytes = sum(x.numel() * x.element_size() for x in given)
    expected: Dict[LayerMethod, int] = {}
    peaks: Dict[LayerMethod, Optional[int]] = {}
    seconds: Dict[LayerMethod, List[float]] = {}
    for method in settings.methods:
        needed = given_bytes + layers.expected_bytes(method, backward, inputs[0].element_size())
        if needed > settings.memory:
            expected[method] = needed
            continue
        progress(f"{_described(layers, method)}, {direction}: bytes")
        made = peak_bytes(partial(_pass, layers, method, inputs, towards), settings.device)
        peaks[method], seconds[method] = None if made is None else given_bytes + made, []
    for turn in range(settings.runs):
        for method in rotated(list(peaks), turn) if peaks else ():
            progress(f"{_described(layers, method)}, {direction}: round {turn + 1}")
            seconds[method].append(seconds_of(partial(_pass, layers, method, inputs, towards), settings.device))
    of_baseline = seconds.get(settings.baseline)
    return [
        TopkResult(
            method=method,
            direction=direction,
            sizes=layers.sizes,
            given_bytes=given_bytes,
            peak_bytes=peaks.get(method),
            expected_bytes=expected.get(method),
            seconds=seconds.get(method, ()),
            faster=times_faster(seconds[method], of_baseline) if seconds.get(method) and of_baseline else None,
        )
        for method in settings.methods
    ]


def _pass(layers: Layers, method: LayerMethod, inputs: Sequence[Tensor], towards: Optional[Tensor]) -> Any:
    """One forward pass, with ``towards`` also a backward pass; the result lives until it is over."""
    if towards is None:
        with torch.no_grad():
            return layers.output(method, inputs)
    output = layers.output(method, inputs)
    return output, torch.autograd.grad(output, list(inputs), towards)


def _inputs(settings: TopkSettings, layers: Layers, dtype: torch.dtype) -> List[Tensor]:
    return [x.detach().requires_grad_() for x in layers.inputs(_draw(settings, dtype, seed=1))]


def _towards(settings: TopkSettings, layers: Layers, dtype: torch.dtype) -> Tensor:
    """The gradient of the output."""
    return _draw(settings, dtype, seed=2)(*layers.output_shape)


def _draw(settings: TopkSettings, dtype: torch.dtype, seed: int) -> Callable[..., Tensor]:
    """The same numbers on every device."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).to(settings.device, dtype)

    return draw


def _described(layers: Layers, method: LayerMethod) -> str:
    return ", ".join([method.label, *(f"{name} {size:,}" for name, size in layers.sizes.items())])
