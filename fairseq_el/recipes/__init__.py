"""Experiments from raw text to scores, in steps that can be run again."""

from pathlib import Path
from typing import Callable, Dict

from fairseq_el.recipes.config import Recipe, Say, read_recipe
from fairseq_el.recipes.download import download
from fairseq_el.recipes.generate import generate
from fairseq_el.recipes.preprocess import preprocess
from fairseq_el.recipes.product import refuse_others_directories
from fairseq_el.recipes.score import score

STEPS: Dict[str, Callable[[Recipe, Path, Say], None]] = {
    "download": download,
    "preprocess": preprocess,
    "generate": generate,
    "score": score,
}

__all__ = [
    "STEPS",
    "Recipe",
    "Say",
    "download",
    "generate",
    "preprocess",
    "read_recipe",
    "refuse_others_directories",
    "score",
]
