"""The README's table of models: every row is decoded, converted or refused as it says."""

from __future__ import annotations

import fnmatch
import re
from typing import Any, Callable

import pytest
import torch
from commands import REPOSITORY
from fairseq.models import ARCH_MODEL_REGISTRY
from fairseq.sequence_generator import SequenceGenerator
from fairseq.tasks import TASK_REGISTRY
from fairseq.tasks.multilingual_translation import MultilingualTranslationTask
from tiny import (
    batch,
    build_language_model,
    build_model,
    build_slim_performer,
    dictionary,
    hypotheses,
    settings,
)
from tiny_speech import build_speech_model, speech_batch

import fairseq_el
from fairseq_el.conversion.hf.families import FAMILIES
from fairseq_el.generation import ELSequenceGenerator
from fairseq_el.tasks import ELTask

WORDS = dictionary()
SENTENCES = [5, 2, 7, 1]


def rows() -> list[list[str]]:
    """The cells of each row: models, tasks, families of Hugging Face."""
    section = (REPOSITORY / "README.md").read_text("utf-8").partition("## Models\n")[2].partition("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def spans(cell: str) -> list[str]:
    """What a cell has in backquotes."""
    return re.findall(r"`([^`]+)`", cell)


def is_refused(row: list[str]) -> bool:
    return row[0].startswith("refused")


DECODED = sorted({arch for row in rows() if not is_refused(row) for arch in spans(row[0])})
REFUSED = sorted({arch for row in rows() if is_refused(row) for arch in spans(row[0])})
TASKS = sorted({name for row in rows() for name in spans(row[1]) if name != "el_"})
CONVERTED = {name.strip() for row in rows() for name in row[2].split(",") if name.strip()}


def first_of(pattern: str) -> str:
    """The first architecture of fairseq's, or of this package, that a row's pattern stands for."""
    found = sorted(fnmatch.filter(ARCH_MODEL_REGISTRY, pattern))
    assert found, f"no architecture is named {pattern}"
    return found[0]


def of_text(arch: str) -> tuple[Any, Any]:
    limits = {"topk_attention": 3} if arch.startswith("topk") else {}
    return build_model(arch, WORDS, seed=1, **limits), batch(WORDS, SENTENCES, seed=2)


def of_language(arch: str) -> tuple[Any, Any]:
    model = build_language_model(WORDS, seed=1)
    if arch.startswith("topk"):
        fairseq_el.enable_topk_attention(model, attention=3)
    return model, batch(WORDS, SENTENCES, seed=2)


def of_slim(arch: str) -> tuple[Any, Any]:
    return build_slim_performer(WORDS, seed=1), batch(WORDS, SENTENCES, seed=2)


def of_speech(arch: str) -> tuple[Any, Any]:
    return build_speech_model(arch, WORDS, seed=1), speech_batch([30, 12, 21], seed=2)


def of_a_pair(arch: str) -> tuple[Any, Any]:
    """One of the models that a multilingual one holds."""
    pairs = ["de-en", "fr-en"]
    args = settings(arch, lang_pairs=pairs, source_lang="de", target_lang="en", encoder_langtok=None)
    args.decoder_langtok = False
    task = MultilingualTranslationTask(args, dict.fromkeys(("de", "en", "fr"), WORDS), training=False)
    torch.manual_seed(1)
    model = ARCH_MODEL_REGISTRY[arch].build_model(args, task)
    return model.double().eval().models[pairs[0]], batch(WORDS, SENTENCES, seed=2)


BUILDERS: dict[str, Callable[[str], tuple[Any, Any]]] = {
    "s2t_": of_speech,
    "convtransformer": of_speech,
    "multilingual_": of_a_pair,
    "transformer_lm": of_language,
    "topk_transformer_lm": of_language,
    "slim_performer_lm": of_slim,
}


@pytest.mark.parametrize("pattern", DECODED)
def test_decoded_as_by_stock(pattern):
    """A random model; ``test_the_tasks_exist`` and the tests of each task decode by command."""
    arch = first_of(pattern)
    build = next((build for start, build in BUILDERS.items() if pattern.startswith(start)), of_text)
    found = []
    for kind in (SequenceGenerator, ELSequenceGenerator):
        model, sample = build(arch)
        if kind is ELSequenceGenerator:
            fairseq_el.enable_el_attention(model)
        generator = kind([model], WORDS, beam_size=3, max_len_b=9)
        found.append(hypotheses(generator, [model], sample))
    stock, mine = found
    assert [[tokens for tokens, _ in each] for each in mine] == [[tokens for tokens, _ in each] for each in stock]
    assert len({tuple(tokens) for each in stock for tokens, _ in each}) > 2


def refused_model(arch: str) -> Any:
    sizes = {
        "lightconv": {"encoder_conv_dim": 16, "decoder_conv_dim": 16, "encoder_layers": 7, "decoder_layers": 6},
        "lstm": {"criterion": "cross_entropy"},
        "hf_gpt2": {"embed_dim": 16, "num_attention_heads": 2, "num_layers": 1},
    }
    if arch.startswith("hf_"):
        pytest.importorskip("transformers", reason="transformers is not installed: pip install fairseq_el[bench]")
    return build_model(arch, WORDS, seed=1, **sizes.get(arch, {}))


@pytest.mark.parametrize("pattern", REFUSED)
def test_refused_with_a_reason(pattern):
    model = refused_model(first_of(pattern))
    with pytest.raises(fairseq_el.UnsupportedModelError) as refusal:
        fairseq_el.enable_el_attention(model)
    assert refusal.value.reasons and not fairseq_el.el_attention_enabled(model)


def test_every_task_is_in_the_table():
    ours = {name for name, task in TASK_REGISTRY.items() if issubclass(task, ELTask) and name.startswith("el_")}
    fairseqs = {name for name, task in TASK_REGISTRY.items() if task.__module__.startswith("fairseq.")}
    assert set(TASKS) == {name for name in ours if name[len("el_") :] in fairseqs}


def test_every_family_that_is_converted_is_in_the_table():
    assert {family.name for family in FAMILIES} == CONVERTED
