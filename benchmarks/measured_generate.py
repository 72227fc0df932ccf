"""Runs fairseq-generate as the command line does, and writes what it held in memory to a JSON file, for compare.py.

    python benchmarks/measured_generate.py REPORT.json DATA --path model.pt [any option of fairseq-generate]

Bytes are those of live tensors. Stock's are counted at every decoder layer call; the generator of EL models says what
it kept at most in a batch, after every step or in native code (``on_batch``). They are::

  cross-attention  the encoder's output and its padding mask as layers get them, and the keys and values that
                   encoder-decoder attention has cached
  self-attention   what decoder self-attention keeps, with the room that EL models have for more words. In the native
                   step that is blocks of words of all sentences, what is noted about each word, and every beam's list
                   of its words

The report has the largest sums, the peak resident memory of this process, and the peak of the CUDA allocator.
"""

from __future__ import annotations

import json
import os
import resource
import sys
from typing import Any

import torch
from fairseq.modules.transformer_layer import TransformerDecoderLayerBase
from fairseq_cli import generate
from torch.nn.modules.module import register_module_forward_hook

# fairseq_el is imported by the program that is measured, if it is; not here, so that stock runs stay stock.
DECODE_STATE = "fairseq_el.decode_state"  # its key in an incremental state


def num_bytes(*tensors: Any) -> int:
    return sum(t.numel() * t.element_size() for t in tensors if isinstance(t, torch.Tensor))


class StateProbe:
    """Looks at one model: at stock's decoder layers after each call, as a global forward hook of modules; at EL's
    decode state after each step or batch, as ``on_step`` or ``on_batch`` of its generators.
    """

    def __init__(self) -> None:
        self.cross_bytes = 0  # encoder output, its mask, and keys and values cached by encoder-decoder attention
        self.encoder_out_bytes = 0  # the first of these, in stock
        self.self_bytes = 0  # what decoder self-attention keeps
        self.peak_cross_bytes = 0
        self.peak_self_bytes = 0
        self._cached: dict[int, tuple[int, int]] = {}  # layer -> bytes cached by its cross- and its self-attention

    def __call__(self, layer: Any, inputs: Any, output: Any) -> None:
        if not isinstance(layer, TransformerDecoderLayerBase) or len(inputs) < 4 or inputs[3] is None:
            return
        _, encoder_out, padding_mask, incremental_state = inputs[:4]
        self._cached[id(layer)] = (
            _cached_bytes(layer.encoder_attn, incremental_state),
            _cached_bytes(layer.self_attn, incremental_state),
        )
        cross, own = (sum(of_layers) for of_layers in zip(*self._cached.values()))
        state = incremental_state.get(DECODE_STATE)
        self.encoder_out_bytes = num_bytes(encoder_out, padding_mask)
        self.cross_bytes = self.encoder_out_bytes + cross
        self.self_bytes = own if state is None else state.capacity_bytes()
        self._update_peaks()

    def on_step(self, step: int, states: list[Any]) -> None:
        if states:
            self.cross_bytes, self.self_bytes = states[0].source_bytes(), states[0].capacity_bytes()
            self._update_peaks()

    def on_batch(self, most: Any) -> None:
        self.cross_bytes, self.self_bytes = most.source, most.past
        self._update_peaks()

    def _update_peaks(self) -> None:
        self.peak_cross_bytes = max(self.peak_cross_bytes, self.cross_bytes)
        self.peak_self_bytes = max(self.peak_self_bytes, self.self_bytes)


def _cached_bytes(attention: Any, incremental_state: Any) -> int:
    if attention is None:
        return 0
    return num_bytes(*(attention.get_incremental_state(incremental_state, "attn_state") or {}).values())


def observe_el_generators(probe: StateProbe) -> None:
    """For stock runs, fairseq_el is not imported here: it may be on the command line (``--user-dir``) all the same."""
    if "el_" in "".join(sys.argv):
        from fairseq_el.generation import ELSequenceGenerator

        ELSequenceGenerator.on_batch = staticmethod(probe.on_batch)


def main() -> None:
    report_path, sys.argv = sys.argv[1], ["fairseq-generate", *sys.argv[2:]]
    if os.path.lexists(report_path):
        sys.exit(f"REPORT.json must be a new file; {report_path} exists already")
    probe = StateProbe()
    register_module_forward_hook(probe)
    observe_el_generators(probe)
    generate.cli_main()
    unit = 1 if sys.platform == "darwin" else 1024  # of ru_maxrss
    report = {
        "cross_attention_bytes": probe.peak_cross_bytes,
        "self_attention_bytes": probe.peak_self_bytes,
        "peak_resident_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit,
        "peak_cuda_bytes": torch.cuda.max_memory_allocated() if torch.cuda.is_available() else None,
    }
    with open(report_path, "x") as file:
        json.dump(report, file)


if __name__ == "__main__":
    main()
