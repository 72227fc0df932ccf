"""A model between the two programs: read from one, to be written for the other."""

from __future__ import annotations

import argparse
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Dict, List, Optional

from fairseq_el.conversion.hf.families import Family, ModelSizes
from fairseq_el.conversion.hf.hf_directory import HFDirectory
from fairseq_el.conversion.hf.tokenizer import Tokenizer
from fairseq_el.conversion.hf.vocabulary import Vocabulary
from fairseq_el.conversion.hf.weights import Weights


@dataclass(frozen=True)
class Model:
    """Holds a model that both programs can compute, whichever of them it was read from.

    Attributes:
        path: of the directory or the checkpoint that the model was read from.
        weights: by fairseq's names, with tables of positions.
        settings: fairseq's, of the model and its task.
        generation: settings and ids by Hugging Face's names.
        tokenizer: for the other program.
        original: Hugging Face's own files of the model; None if it never was Hugging Face's.
        notes: what is not carried over, or differs.
    """

    path: Path
    family: Family
    sizes: ModelSizes
    vocabulary: Vocabulary
    weights: Weights
    settings: argparse.Namespace
    generation: Dict[str, Any]
    tokenizer: Tokenizer
    original: Optional[HFDirectory]
    notes: List[str]


@dataclass
class ConversionSummary:
    """Holds what is printed about a directory that was written."""

    family: str
    arch: str  # of fairseq's checkpoint
    tensors: int
    vocabulary: int
    notes: List[str] = field(default_factory=list)  # what was not carried over, or differs
    usage: List[str] = field(default_factory=list)  # command lines, with {out} for the directory
    largest_difference: Optional[float] = None  # of logits, of the largest logit; None without --verify
