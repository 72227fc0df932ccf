"""The programs behind one interface: :class:`Program`."""

from __future__ import annotations

from fairseq_el.bench.programs.base import Hypothesis, Program
from fairseq_el.bench.programs.stock_and_el import FairseqProgram
from fairseq_el.bench.settings import Spec

__all__ = ["FairseqProgram", "Hypothesis", "Program", "load_program"]


def load_program(spec: Spec) -> Program:
    """Loads what a worker runs; libraries of other programs are not imported."""
    if spec.method.kind == "hf":
        from fairseq_el.bench.programs.huggingface import HuggingFaceProgram

        return HuggingFaceProgram(spec)
    if spec.method.kind == "ct2":
        from fairseq_el.bench.programs.ctranslate import CTranslateProgram

        return CTranslateProgram(spec)
    return FairseqProgram(spec)
