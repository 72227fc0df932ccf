"""Counts what a Transformer decoder keeps between steps, from its live tensors. Used by the other scripts."""

from __future__ import annotations

from typing import Any

import torch
from fairseq.modules.transformer_layer import TransformerDecoderLayerBase

# fairseq_el is imported by the program that is measured, if it is; not here, so that stock runs stay stock.
DECODE_STATE = "fairseq_el.decode_state"  # its key in an incremental state


def num_bytes(*tensors: Any) -> int:
    return sum(t.numel() * t.element_size() for t in tensors if isinstance(t, torch.Tensor))


class StateProbe:
    """Looks at one model: at stock's decoder layers after each call, as a global forward hook of modules; at EL's
    decode state after each step, as ``on_step`` of its generators.
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

    def _update_peaks(self) -> None:
        self.peak_cross_bytes = max(self.peak_cross_bytes, self.cross_bytes)
        self.peak_self_bytes = max(self.peak_self_bytes, self.self_bytes)


def _cached_bytes(attention: Any, incremental_state: Any) -> int:
    if attention is None:
        return 0
    return num_bytes(*(attention.get_incremental_state(incremental_state, "attn_state") or {}).values())
