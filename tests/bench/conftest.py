"""A tiny BART and a tiny language model, and their data sets, as fairseq's programs write them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from fairseq.data import indexed_dataset
from tiny import build_language_model, build_model, dictionary, save_with_cfg, settings

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


@pytest.fixture(scope="session")
def tiny_gpt(tmp_path_factory) -> TinyBart:
    """With lines of 5 to 11 words, without the eos."""
    work = tmp_path_factory.mktemp("gpt")
    data = work / "data-bin"
    data.mkdir()
    WORDS.save(str(data / "dict.txt"))
    save_lines(data / "test")
    options = {"tokens_per_sample": 64, "decoder_input_dim": 16, "decoder_output_dim": 16}
    options["share_decoder_input_output_embed"] = True
    model = build_language_model(WORDS, seed=5, dtype=torch.float32)
    path = work / "model.pt"
    save_with_cfg(path, model, settings("transformer_lm", task="language_modeling", data=str(data), **options))
    return TinyBart(data, path, model)


def save_lines(prefix: Path) -> None:
    generator = torch.Generator().manual_seed(1)
    builder = indexed_dataset.make_builder(f"{prefix}.bin", impl="mmap", vocab_size=len(WORDS))
    for i in range(SENTENCES):
        words = torch.randint(4, len(WORDS), (5 + 3 * (i % 3),), generator=generator)
        builder.add_item(torch.cat([words, torch.tensor([WORDS.eos()])]))
    builder.finalize(f"{prefix}.idx")


def make(work: Path, arch: str, **options) -> TinyBart:
    model = build_model(arch, WORDS, seed=5, dtype=torch.float32, **options)
    data = work / "data-bin"
    data.mkdir()
    for language in ("src", "tgt"):
        WORDS.save(str(data / f"dict.{language}.txt"))
        save_lines(data / f"test.src-tgt.{language}")
    path = work / "model.pt"
    # With all settings that fairseq, and CTranslate2's converter, build the model from again.
    save_with_cfg(path, model, settings(arch, task="translation", source_lang="src", target_lang="tgt", **options))
    return TinyBart(data, path, model)
