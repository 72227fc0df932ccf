"""The programs behind one interface: :class:`Program`."""

from __future__ import annotations

from fairseq_el.bench.programs.base import Program, ScoredOutput
from fairseq_el.bench.programs.fairseq import FairseqProgram
from fairseq_el.bench.settings import Spec

__all__ = ["FairseqProgram", "Program", "ScoredOutput", "load_program"]


def load_program(spec: Spec) -> Program:
    """Loads what a worker runs; libraries of other programs are not imported."""
    if spec.method.kind == "hf":
        from fairseq_el.bench.programs.huggingface import HuggingFaceProgram

        return HuggingFaceProgram(spec)
    if spec.method.kind == "ct2":
        from fairseq_el.bench.programs.ctranslate import CTranslateProgram

        return CTranslateProgram(spec)
    return FairseqProgram(spec)
