"""A tiny BART checkpoint and its data set, as fairseq's programs write them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from fairseq.data import indexed_dataset
from tiny import build_model, dictionary, save_with_cfg, settings

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
    # With all settings that fairseq, and CTranslate2's converter, build the model from again.
    save_with_cfg(path, model, settings(arch, task="translation", source_lang="src", target_lang="tgt", **options))
    return TinyBart(data, path, model)
