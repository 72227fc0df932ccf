"""Measures the training of a SLiM Performer: bytes of activations, time and gradients, against slice and sequence."""

from __future__ import annotations

import statistics
from argparse import Namespace
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Sequence

import torch
from fairseq.data import Dictionary
from slim_authors import AuthorsModel
from torch import Tensor

from fairseq_el.errors import FairseqElError, OptionError
from fairseq_el.measure import peak_bytes, rotated, seconds_of
from fairseq_el.slim import SlimDecoder, slim_cross_entropy

OURS, AUTHORS = "fairseq_el", "authors"
LARGEST_GAP = 1e-2  # of gradients in fp32; what is computed is wrong beyond that


@dataclass(frozen=True)
class SlimSettings:
    """The options of ``slim_training.py``.

    Attributes:
        layers, width, ffn, heads: of the model.
        feature_map: of attention.
        lengths: ``L``, of one sequence each.
        slices: ``C``; 0, or ``L`` itself, for the whole sequence at once; those larger than ``L`` are left out.
        runs: timed rounds; 0 to count bytes only.
        device: ``"cpu"`` or ``"cuda"``.
        threads: of torch.
        authors: the user's checkout of the authors' program, if it is to be measured beside.
        authors_compute: ``compute_type`` of it.
        command: that was given.
    """

    layers: int
    width: int
    ffn: int
    heads: int
    feature_map: str
    lengths: Sequence[int]
    slices: Sequence[int]
    runs: int
    device: str
    threads: int
    authors: Optional[Path] = None
    authors_compute: str = "iter"
    command: str = ""


@dataclass(frozen=True)
class SlimResult:
    """One program with one length of sequence and slice.

    Attributes:
        program: ``"fairseq_el"`` or ``"authors"``.
        length, slice_length: ``L`` and ``C``.
        peak_bytes: of live tensors at most, in forward and backward pass, beyond what is there before and after:
            tokens, parameters and their gradients. None where torch can't count them.
        seconds: of every round.
        gap: of the gradient to that of ours with the largest ``C``: ``|g - g'| / |g'|``.
    """

    program: str
    length: int
    slice_length: int
    peak_bytes: Optional[int]
    gap: float
    seconds: Sequence[float] = ()

    @property
    def median(self) -> Optional[float]:
        return statistics.median(self.seconds) if self.seconds else None

    def as_dict(self) -> Dict[str, Any]:
        return {**asdict(self), "seconds": list(self.seconds), "seconds_median": self.median}


Progress = Callable[[str], None]


def measure_slim_training(settings: SlimSettings, progress: Progress = lambda what: None) -> List[SlimResult]:
    """Compares gradients, counts bytes, and then takes times in rounds.

    Raises:
        OptionError: a length has no slices; nothing was measured then.
        FairseqElError: gradients differ; nothing was timed then.
    """
    slices = {length: _slices(settings.slices, length) for length in settings.lengths}
    torch.set_num_threads(settings.threads)
    torch.manual_seed(1)
    decoder = build_decoder(settings)
    programs: Dict[str, Any] = {OURS: _Ours(decoder)}
    if settings.authors is not None:
        programs[AUTHORS] = AuthorsModel(settings.authors, decoder, settings.authors_compute)
    results = []
    for length in settings.lengths:
        results += _results_of_length(settings, programs, length, slices[length], progress)
    return results


def _slices(asked: Sequence[int], length: int) -> List[int]:
    """Those for a length, the largest first: gradients are compared with its."""
    slices = {0 if c == length else c for c in asked if c <= length}
    if not slices:
        raise OptionError(
            f"--slices must have one of at most L, or 0, for every one of --lengths; for {length} there are only "
            + ", ".join(map(str, asked))
        )
    return sorted(slices, key=lambda c: c or length, reverse=True)


def build_decoder(settings: SlimSettings) -> SlimDecoder:
    """With random weights, for bytes."""
    words = Dictionary()
    for i in range(256):
        words.add_symbol(str(i))
    cfg = Namespace(
        decoder_layers=settings.layers,
        decoder_embed_dim=settings.width,
        decoder_ffn_embed_dim=settings.ffn,
        decoder_attention_heads=settings.heads,
        decoder_normalize_before=False,
        feature_map=settings.feature_map,
        num_features=0,
        feature_seed=1,
        redraw_features=0,
        dropout=0.0,
        max_target_positions=max(settings.lengths),
    )
    return SlimDecoder(cfg, words).to(settings.device)


class _Ours:
    """Gradients as :class:`AuthorsModel` gives them."""

    def __init__(self, decoder: SlimDecoder):
        self.decoder = decoder

    def backward(self, tokens: Tensor, slice_length: int) -> Tensor:
        loss, _ = slim_cross_entropy(self.decoder, tokens[:, :-1], tokens[:, 1:], slice_length)
        loss.backward()
        return loss.detach()

    def gradients(self, length: int) -> Dict[str, Tensor]:
        return {name: p.grad.clone() for name, p in self.decoder.named_parameters() if p.grad is not None}

    def forget_gradients(self) -> None:
        self.decoder.zero_grad(set_to_none=False)


def _results_of_length(
    settings: SlimSettings, programs: Dict[str, Any], length: int, slices: Sequence[int], progress: Progress
) -> List[SlimResult]:
    generator = torch.Generator().manual_seed(length)
    tokens = torch.randint(4, 260, (1, length + 1), generator=generator).to(settings.device)
    cases = [(name, c) for c in slices for name in programs]
    expected: Dict[str, Tensor] = {}
    results = []
    for name, slice_length in cases:
        progress(f"{name}, L {length}, C {slice_length or 'full'}: bytes")
        peak = _count(programs[name], tokens, slice_length)
        found = programs[name].gradients(length)
        expected = expected or found
        gap = _gap(found, expected)
        if not gap <= LARGEST_GAP:  # nor NaN
            raise FairseqElError(
                f"{name}, L {length}, C {slice_length}: the gradient differs by {gap:.2g} of its size from that of "
                f"C {slices[0] or 'full'}; more than {LARGEST_GAP} can't be rounding, so no times are reported"
            )
        results.append(SlimResult(name, length, slice_length, peak, gap))
    seconds: List[List[float]] = [[] for _ in cases]
    for turn in range(settings.runs):
        for number in rotated(range(len(cases)), turn):
            name, slice_length = cases[number]
            progress(f"{name}, L {length}, C {slice_length or 'full'}: round {turn + 1}")
            seconds[number].append(_time(programs[name], tokens, slice_length))
    return [replace(result, seconds=tuple(times)) for result, times in zip(results, seconds)]


def _count(program: Any, tokens: Tensor, slice_length: int) -> Optional[int]:
    """The peak of one pass; gradients are there before it, and hold those of this pass after it."""
    if all(parameter.grad is None for parameter in _parameters(program)):
        program.backward(tokens[:, :3], 1)
    program.forget_gradients()
    return peak_bytes(lambda: program.backward(tokens, slice_length), tokens.device.type)


def _parameters(program: Any) -> List[Tensor]:
    return list((program.decoder if isinstance(program, _Ours) else program.model).parameters())


def _time(program: Any, tokens: Tensor, slice_length: int) -> float:
    program.forget_gradients()
    return seconds_of(lambda: program.backward(tokens, slice_length), tokens.device.type)


def _gap(found: Dict[str, Tensor], expected: Dict[str, Tensor]) -> float:
    """``|g - g'| / |g'|`` over all parameters."""
    names = list(expected)
    difference = torch.stack([(found[n] - expected[n]).double().norm() for n in names]).norm()
    return float(difference / torch.stack([expected[n].double().norm() for n in names]).norm())
