"""Experiments from raw text to scores, in steps that can be run again."""

from pathlib import Path
from typing import Callable, Dict

from fairseq_el.recipes.download_step import download
from fairseq_el.recipes.generate_step import generate
from fairseq_el.recipes.preprocess_step import preprocess
from fairseq_el.recipes.recipe_file import Recipe, Say, read_recipe
from fairseq_el.recipes.score_step import score
from fairseq_el.recipes.stamped_directory import refuse_others_directories

STEPS: Dict[str, Callable[[Recipe, Path, Say], None]] = {
    "download": download,
    "preprocess": preprocess,
    "generate": generate,
    "score": score,
}

__all__ = ["STEPS", "read_recipe", "refuse_others_directories"]
