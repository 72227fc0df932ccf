"""Measures what a CUDA graph would save of a decoder step, and whether lengths that are no multiple of 4 cost more.

    python benchmarks/step_graph.py --batches 1,16,32,128        # a step from Python, and replayed from a graph
    python benchmarks/step_graph.py --lengths 1016,1017,1020     # the attention of one layer, over so many positions

Makes "What a CUDA graph would save" and "Lengths that are no multiple of 4" of docs/benchmarks.md ("On a card"). A
step is that of decoder layers and output projection, without the search; weights are random and every layer has its
own. The defaults are BART-large's decoder. On a CPU, a step is called from Python only.
"""

from __future__ import annotations

import argparse
import sys
from typing import Callable, Dict, List, Optional

import torch
from common import Arguments, add_device, add_numbers, make_parser, numbers, run_benchmark, table
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from fairseq_el.cli.options import device_of
from fairseq_el.cli.streams import write_line
from fairseq_el.dtypes import DTYPES
from fairseq_el.errors import FairseqElError, OptionError
from fairseq_el.measure import seconds_of, spread
from fairseq_el.ops import el_attention, kv_attention

BACKENDS = ("el", "shared-kv")
_CALLS, _ROUNDS = 20, 3


class DecoderStep:
    """One step of a decoder with random weights.

    Symbols: ``B`` sentences, ``b`` beams, ``n`` source positions, ``U`` nodes, ``h`` heads of ``dh``, ``d = h * dh``.
    """

    def __init__(self, options: argparse.Namespace, backend: str, batch: int):
        self._draw = _numbers_of(options)
        self._heads, self._beam = options.heads, options.beam
        d, layers = options.width, options.layers
        self._dh = d // options.heads
        self._weights = [self._layer_weights(d) for _ in range(layers)]
        self._embedding = self._draw(options.vocab_size, d) * 0.03
        self._input = self._draw(batch, options.beam, d)
        self._pools = [self._keys_values(batch, options.nodes) for _ in range(layers)]
        self._source = self._draw(batch, options.src_len, d) if backend == "el" else None
        self._caches = [self._keys_values(batch, options.src_len) for _ in range(layers if backend != "el" else 0)]

    def __call__(self) -> Tensor:
        """The 8 largest scores of each beam: ``(B, b, 8)``."""
        x = self._input
        for number, weights in enumerate(self._weights):
            x = _added(x, F.linear(self._self_attention(number, x), weights[3]))
            x = _added(x, F.linear(self._cross_attention(number, x), weights[7]))
            x = _added(x, F.linear(F.gelu(F.linear(x, weights[8])), weights[9]))
        return F.linear(x, self._embedding).float().topk(8)[0]

    def _self_attention(self, number: int, x: Tensor) -> Tensor:
        query, key, value = (self._split(F.linear(x, weight)) for weight in self._weights[number][:3])
        keys, values = self._pools[number]
        keys[:, :, -self._beam :] = key.transpose(1, 2)  # (B, b, h, dh) -> (B, h, b, dh)
        values[:, :, -self._beam :] = value.transpose(1, 2)
        return kv_attention(query, keys, values, None, scale=self._dh**-0.5).reshape(x.shape)

    def _cross_attention(self, number: int, x: Tensor) -> Tensor:
        weights = self._weights[number]
        query = self._split(F.linear(x, weights[4]))
        if self._source is None:
            return kv_attention(query, *self._caches[number], None, scale=self._dh**-0.5).reshape(x.shape)
        scaled = query * self._dh**-0.5
        return el_attention(scaled, self._source, weights[5], weights[6], need_weights=False)[0].reshape(x.shape)

    def _split(self, x: Tensor) -> Tensor:
        return x.view(*x.shape[:2], self._heads, self._dh)  # (B, b, d) -> (B, b, h, dh)

    def _layer_weights(self, d: int) -> List[Tensor]:
        """Query, key, value and output of self-attention, the same of cross-attention, and two of the feed-forward."""
        attention = [self._draw(d, d) * d**-0.5 for _ in range(8)]
        return [*attention, self._draw(4 * d, d) * d**-0.5, self._draw(d, 4 * d) * (4 * d) ** -0.5]

    def _keys_values(self, batch: int, positions: int) -> List[Tensor]:
        return [self._draw(batch, self._heads, positions, self._dh) for _ in range(2)]


def _added(x: Tensor, update: Tensor) -> Tensor:
    return F.layer_norm(x + update, x.shape[-1:])


def _numbers_of(options: argparse.Namespace) -> Callable[..., Tensor]:
    return lambda *shape: torch.randn(shape, device=options.device).to(DTYPES[options.dtype].torch_dtype)


def milliseconds(call: Callable[[], object], device: str) -> float:
    """The median of rounds of several calls each, for one call."""
    for _ in range(3):
        call()

    def calls() -> None:
        for _ in range(_CALLS):
            call()

    return 1e3 * spread([seconds_of(calls, device) for _ in range(_ROUNDS)]).median / _CALLS


def replayed(step: DecoderStep) -> float:
    """Milliseconds of a step that is replayed from a CUDA graph.

    Raises:
        FairseqElError: the graph gives other numbers.
    """
    expected = step()
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):  # a graph needs one step on a stream of its own before it is captured
        step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = step()
    found.zero_()
    graph.replay()
    torch.cuda.synchronize()
    if not torch.equal(found, expected):
        raise FairseqElError(
            "the step from a CUDA graph gives other numbers than from Python, so no times are reported"
        )
    return milliseconds(graph.replay, "cuda")


def row_of_step(options: argparse.Namespace, batch: int) -> Dict[str, str]:
    row = {"batch": f"{batch:,}"}
    for backend in BACKENDS:
        step = DecoderStep(options, backend, batch)
        python = milliseconds(step, options.device)
        graph: Optional[float] = replayed(step) if options.device == "cuda" else None
        row[f"{backend}: from Python"] = f"{python:.2f} ms"
        row[f"{backend}: graph"] = "-" if graph is None else f"{graph:.2f} ms"
        row[f"{backend}: times as fast"] = "-" if graph is None else f"{python / graph:.1f}"
    return row


def row_of_length(options: argparse.Namespace, batch: int, length: int) -> Dict[str, str]:
    """The attention of one layer over ``length`` positions: EL-attention, and over keys and values."""
    draw, d, dh = _numbers_of(options), options.width, options.width // options.heads
    weights = [draw(d, d) * d**-0.5 for _ in range(2)]
    query = draw(batch, options.beam, options.heads, dh) * dh**-0.5
    source, keys = draw(batch, length, d), draw(batch, options.heads, length, dh)
    calls = {
        "el": lambda: el_attention(query, source, *weights, need_weights=False),
        "keys and values": lambda: kv_attention(query, keys, keys, None, torch.float32),
    }
    times = {name: f"{milliseconds(call, options.device):.3f} ms" for name, call in calls.items()}
    return {"batch": f"{batch:,}", "positions": f"{length:,}", **times}


def measure(options: argparse.Namespace) -> None:
    if options.width % options.heads:
        raise OptionError(f"--width must be a multiple of --heads; got {options.width} and {options.heads}")
    if options.nodes < options.beam:
        raise OptionError(f"--nodes must be at least --beam; got {options.nodes} and {options.beam}")
    options.device = device_of(options.device)
    with torch.no_grad():
        rows = [
            row
            for batch in options.batches
            for row in (
                [row_of_length(options, batch, length) for length in options.lengths]
                if options.lengths
                else [row_of_step(options, batch)]
            )
        ]
    write_line(table(rows, "github"))


def main(arguments: Arguments = None) -> int:
    """Args: ``arguments``: of the command line (default: those of this process)."""
    parser = make_parser("step_graph.py", __doc__)
    parser.add_argument("--batches", type=numbers, default=(32,), metavar="N[,N...]", help="(default: 32)")
    parser.add_argument("--lengths", type=numbers, default=(), metavar="N[,N...]", help="of one layer's attention")
    add_numbers(
        parser,
        [
            ("beam", 4, "beams of a sentence"),
            ("src-len", 1024, "tokens of every source"),
            ("nodes", 144, "in the pools of self-attention"),
            ("layers", 12, "of the decoder"),
            ("heads", 16, "of an attention"),
            ("width", 1024, "of encoder and decoder"),
            ("vocab-size", 50264, "words"),
        ],
    )
    parser.add_argument("--dtype", choices=["fp16", "bf16", "fp32"], default="fp16", help="(default: %(default)s)")
    add_device(parser)
    return run_benchmark(parser, measure, arguments)


if __name__ == "__main__":
    sys.exit(main())
