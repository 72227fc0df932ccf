"""A tiny BART checkpoint and its data set, as fairseq's programs write them."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from fairseq.data import indexed_dataset
from fairseq.models import ARCH_CONFIG_REGISTRY, ARCH_MODEL_REGISTRY
from tiny import TINY, build_model, dictionary

WORDS = dictionary(40)
SENTENCES = 6


@dataclass(frozen=True)
class TinyBart:
    data: Path
    path: Path
    model: torch.nn.Module


@pytest.fixture(scope="session")
def tiny_bart(tmp_path_factory) -> TinyBart:
    return make(tmp_path_factory.mktemp("bart"), "bart_base", share_all_embeddings=True)


def make(work: Path, arch: str, **options) -> TinyBart:
    model = build_model(arch, WORDS, seed=5, dtype=torch.float32, **options)
    data = work / "data-bin"
    data.mkdir()
    generator = torch.Generator().manual_seed(1)
    for language in ("src", "tgt"):
        WORDS.save(str(data / f"dict.{language}.txt"))
        prefix = data / f"test.src-tgt.{language}"
        builder = indexed_dataset.make_builder(f"{prefix}.bin", impl="mmap", vocab_size=len(WORDS))
        for i in range(SENTENCES):
            words = torch.randint(4, len(WORDS), (5 + 3 * (i % 3),), generator=generator)
            builder.add_item(torch.cat([words, torch.tensor([WORDS.eos()])]))
        builder.finalize(f"{prefix}.idx")
    path = work / "model.pt"
    save(path, model, arch, options)
    return TinyBart(data, path, model)


def save(path: Path, model: torch.nn.Module, arch: str, options: dict[str, Any]) -> None:
    """With the settings that fairseq, and CTranslate2's converter, build the model from again."""
    parser = argparse.ArgumentParser(argument_default=argparse.SUPPRESS, allow_abbrev=False)
    ARCH_MODEL_REGISTRY[arch].add_args(parser)
    settings = parser.parse_args([])
    languages = {"source_lang": "src", "target_lang": "tgt"}
    vars(settings).update(TINY, arch=arch, task="translation", **languages, **options)
    ARCH_CONFIG_REGISTRY[arch](settings)
    history = {"criterion_name": "", "optimizer_name": "", "lr_scheduler_state": {}, "num_updates": 0}
    state = {"args": None, "cfg": {"model": settings}, "model": model.state_dict(), "optimizer_history": [history]}
    torch.save({**state, "extra_state": {"train_iterator": None}, "task_state": {}}, path)
