"""Runs fairseq-generate as the command line does, and writes what it held in memory to a JSON file.

    python scripts/measured_generate.py REPORT.json DATA --path model.pt [any option of fairseq-generate]

Counted at every decoder layer call, from the live tensors: the cross-attention state, that is the encoder's output and
its padding mask as the layer gets them, and the keys and values that encoder-decoder attention has cached. The report
has the largest sum seen, the peak resident memory of this process, and the peak of the CUDA allocator if there is one.
"""

from __future__ import annotations

import json
import resource
import sys
from typing import Any

import torch
from fairseq.modules.transformer_layer import TransformerDecoderLayerBase
from fairseq_cli import generate
from torch.nn.modules.module import register_module_forward_hook


def num_bytes(*tensors: Any) -> int:
    return sum(t.numel() * t.element_size() for t in tensors if isinstance(t, torch.Tensor))


class CrossAttentionProbe:
    """Follows the cross-attention state of one model while it decodes."""

    def __init__(self) -> None:
        self.peak = 0
        self._cached: dict[int, int] = {}  # layer -> bytes of its cached keys and values

    def __call__(self, layer: Any, inputs: Any, output: Any) -> None:
        if not isinstance(layer, TransformerDecoderLayerBase) or len(inputs) < 4 or inputs[3] is None:
            return
        _, encoder_out, padding_mask, incremental_state = inputs[:4]
        cached = layer.encoder_attn.get_incremental_state(incremental_state, "attn_state") or {}
        self._cached[id(layer)] = num_bytes(*cached.values())
        self.peak = max(self.peak, num_bytes(encoder_out, padding_mask) + sum(self._cached.values()))


def main() -> None:
    report_path, sys.argv = sys.argv[1], ["fairseq-generate", *sys.argv[2:]]
    probe = CrossAttentionProbe()
    register_module_forward_hook(probe)
    generate.cli_main()
    unit = 1 if sys.platform == "darwin" else 1024  # of ru_maxrss
    report = {
        "cross_attention_bytes": probe.peak,
        "peak_resident_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit,
        "peak_cuda_bytes": torch.cuda.max_memory_allocated() if torch.cuda.is_available() else None,
    }
    with open(report_path, "w") as file:
        json.dump(report, file)


if __name__ == "__main__":
    main()
