"""Tiny random models of fairseq's ``multilingual_transformer``: an encoder and a decoder for each pair of languages."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from fairseq.models import ARCH_MODEL_REGISTRY
from fairseq.tasks.multilingual_translation import MultilingualTranslationTask
from tiny import dictionary, draw_weights, settings
from tiny_data import WORDS, write_pairs

ARCH = "multilingual_transformer"
PAIRS = "aa-bb,cc-bb"
SIZES = {"train": 3, "test": 17}
LANGUAGE_SYMBOLS = {"encoder_langtok": "src", "decoder_langtok": True}
ALL_SHARED = {"share_encoders": True, "share_decoders": True, "share_all_embeddings": True}


def write_data(directory: Path) -> dict[str, Path]:
    """Data of both pairs; each directory has the dictionaries of all languages, of different sizes."""
    sizes = {"aa": WORDS, "bb": WORDS - 2, "cc": WORDS + 3}
    found = {}
    for source in ("aa", "cc"):
        words = {"source_words": dictionary(sizes[source]), "target_words": dictionary(sizes["bb"])}
        found[source] = write_pairs(directory / source, SIZES, source, "bb", **words)
        for language, size in sizes.items():
            dictionary(size).save(str(found[source] / f"dict.{language}.txt"))
    return found


def write_joined_data(directory: Path) -> Path:
    """Data of aa-bb with one dictionary for all languages."""
    data = write_pairs(directory, SIZES)
    dictionary(WORDS).save(str(data / "dict.cc.txt"))
    return data


def save_multilingual(path: Path, data: Path, seed: int = 1, pairs: str = PAIRS, **options: Any) -> Path:
    """A checkpoint. ``options``: of the model, and of the task."""
    args = settings(ARCH, **{"encoder_langtok": None, "decoder_langtok": False, **options})
    vars(args).update(task="multilingual_translation", criterion="cross_entropy", data=str(data), lang_pairs=pairs)
    vars(args).update(source_lang=None, target_lang=None, left_pad_source="True", left_pad_target="False")
    task = MultilingualTranslationTask.setup_task(argparse.Namespace(**vars(args)))
    torch.manual_seed(seed)
    model = ARCH_MODEL_REGISTRY[ARCH].build_model(args, task)
    draw_weights(model)
    history = {"criterion_name": "CrossEntropyCriterion", "best_loss": None, "optimizer_name": "", "num_updates": 1}
    state = {"args": args, "model": model.state_dict(), "optimizer_history": [history]}
    state["extra_state"] = {"epoch": 1, "val_loss": None, "train_iterator": {"epoch": 1}}
    torch.save(state, str(path))
    return path
