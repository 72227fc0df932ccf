"""The dictionaries of a recipe, and whether they are the checkpoint's."""

from __future__ import annotations

from pathlib import Path

from fairseq_el.conversion import load_checkpoint, read_dictionary
from fairseq_el.errors import CheckpointMismatchError
from fairseq_el.recipes.config import Recipe


def check_dictionaries(recipe: Recipe, work: Path) -> None:
    """
    Raises:
        CheckpointMismatchError: the checkpoint's embeddings are for another number of words.
        FairseqElError: the checkpoint or a dictionary can't be read.
    """
    checkpoint = load_checkpoint(str(work / recipe.checkpoint), "checkpoint")
    problems = []
    for side, name in zip(("encoder", "decoder"), recipe.dictionaries):
        if side == "encoder" and recipe.is_language_model:
            continue
        embeddings = checkpoint.weights.get(f"{side}.embed_tokens.weight")
        if embeddings is None:
            raise CheckpointMismatchError(
                f"task {recipe.task} needs a model with an {side}; {checkpoint.path} has no {side}.embed_tokens.weight"
            )
        words = read_dictionary(work / name)
        # fairseq drops the embedding of <mask>, which pretrained BART has at the end, where the dictionary has none.
        mask = 1 if "bart" in checkpoint.arch and "<mask>" not in words else 0
        if len(embeddings) not in (len(words), len(words) + mask):
            problems.append(f"\n  - {side}: {len(embeddings):,} in the checkpoint, {len(words):,} in {name}")
    if problems:
        raise CheckpointMismatchError(
            f"the dictionary must have as many words as the model has embeddings, 4 special symbols included; those of "
            f"{checkpoint.path} differ:{''.join(problems)}\nTake the dictionary that the model was trained with"
        )
