"""Runs fairseq-generate as the command line does, and writes what it held in memory to a JSON file.

    python benchmarks/measured_generate.py REPORT.json DATA --path model.pt [any option of fairseq-generate]

Counted from the live tensors, for stock at every decoder layer call and for EL-attention after every step: the
cross-attention state, that is the encoder's output and its padding mask as layers get them, and the keys and values
that encoder-decoder attention has cached; and what decoder self-attention keeps. The report has the largest sums seen,
the peak resident memory of this process, and the peak of the CUDA allocator if there is one.
"""

from __future__ import annotations

import json
import os
import resource
import sys

import torch
from fairseq_cli import generate
from state_probe import StateProbe
from torch.nn.modules.module import register_module_forward_hook


def observe_el_generators(probe: StateProbe) -> None:
    """For stock runs, fairseq_el is not imported here: it may be on the command line (``--user-dir``) all the same."""
    if "el_" in "".join(sys.argv):
        from fairseq_el.generation import ELSequenceGenerator

        ELSequenceGenerator.on_step = staticmethod(probe.on_step)


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
