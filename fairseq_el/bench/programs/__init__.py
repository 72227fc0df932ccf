"""The programs behind one interface: :class:`Program`."""

from __future__ import annotations

from fairseq_el.bench.methods import Method
from fairseq_el.bench.programs.base import Program, ScoredOutput, reads_prompts
from fairseq_el.bench.programs.fairseq import FairseqProgram, ReferenceScores
from fairseq_el.bench.settings import Settings
from fairseq_el.tasks import import_user_directory

__all__ = [
    "FairseqProgram",
    "Program",
    "ReferenceScores",
    "ScoredOutput",
    "load_program",
    "reads_prompts",
]


def load_program(settings: Settings, method: Method) -> Program:
    """Loads the model into the program of a method; libraries of other programs are not imported.

    Raises:
        OptionError: the user directory can't be imported.
    """
    if settings.user_dir is not None:
        import_user_directory(settings.user_dir)
    if method.kind == "hf":
        from fairseq_el.bench.programs.huggingface import HuggingFaceProgram

        return HuggingFaceProgram(settings, method)
    if method.kind == "ct2":
        from fairseq_el.bench.programs.ctranslate import CTranslateProgram

        return CTranslateProgram(settings, method)
    return FairseqProgram(settings, method)
