"""Names that users import, register in a command line or type: none may disappear or move."""

from __future__ import annotations

import importlib
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from fairseq_el.cli.main import main

REPOSITORY = Path(__file__).resolve().parent.parent
DOCUMENTS = sorted([*REPOSITORY.glob("*.md"), *REPOSITORY.glob("docs/*.md"), *REPOSITORY.glob("examples/*/*.md")])

IMPORTED = {
    "fairseq_el": """
        CheckpointMismatchError FairseqElError Generator NoHypothesisError NoKernelsError OptionError OutOfMemoryError
        UnsupportedModelError disable_el_attention disable_topk_attention el_attention_enabled enable_el_attention
        enable_topk_attention
    """,
    "fairseq_el.generation": """
        DEFAULT_ENCODER_TOKENS DecodeState ELSequenceGenerator ELSequenceGeneratorWithAlignment TransformersRules
        disable_el_attention el_generator enable_el_attention sentence_seed
    """,
    "fairseq_el.ops": """
        FEATURE_MAPS MOST_QUERIES Attend PackedLinear Sums as_bias attend_within block_repeated_ngrams can_pack
        contract_context el_attention expand_query feature_map keep_largest keep_rows kv_attention largest
        linear_attention linear_attention_chunked linear_attention_step log_probabilities masked_softmax
        orthogonal_directions sliced_loss storage_bytes sums_of top_of_rows topk_attention topk_el_attention
        topk_feed_forward
    """,
    "fairseq_el.tasks": """
        ELLanguageModelingTask ELMultilingualTranslationTask ELOptions ELSpeechToTextTask ELTask
        ELTranslationFromPretrainedBARTTask
        ELTranslationMultiSimpleEpochTask ELTranslationTask
    """,
}
REGISTERED = {  # what --user-dir fairseq_el adds; EL's and Top-k's architectures follow fairseq's, below
    "arch": "slim_performer_lm slim_performer_lm_1 slim_performer_lm_2 slim_performer_lm_3 slim_performer_lm_4",
    "task": """
        byte_language_modeling copying el_language_modeling el_multilingual_translation el_speech_to_text el_translation
        el_translation_from_pretrained_bart el_translation_multi_simple_epoch
    """,
    "criterion": "slim_cross_entropy",
    "bpe": "el_pieces",
}
# Architectures of fairseq's models bart, transformer and transformer_lm: each has one more with el_ and one with topk_.
STOCK_ARCHITECTURES = """
    bart_base bart_large mbart_base mbart_base_wmt20 mbart_large transformer transformer_iwslt_de_en transformer_tiny
    transformer_lm transformer_lm_baevski_gbw transformer_lm_baevski_wiki103 transformer_lm_big transformer_lm_gbw
    transformer_lm_gpt transformer_lm_gpt2_big transformer_lm_gpt2_medium transformer_lm_gpt2_small
    transformer_lm_wiki103 transformer_vaswani_wmt_en_de_big transformer_vaswani_wmt_en_fr_big transformer_wmt_en_de
    transformer_wmt_en_de_big transformer_wmt_en_de_big_t2t
"""
COMMANDS = [
    *("generate", "plan", "bench", "calibrate", "encode", "merge", "progress", "recipe", "score", "verify"),
    *("convert", "convert info", "convert strip", "convert to-el", "convert to-stock", "convert from-hf"),
    "convert to-hf",
]
REGISTRIES = """
import argparse, json
from fairseq import criterions, models, tasks, utils
from fairseq.registry import REGISTRIES

utils.import_user_module(argparse.Namespace(user_dir="fairseq_el"))
found = dict(arch=models.ARCH_MODEL_REGISTRY, task=tasks.TASK_REGISTRY, criterion=criterions.CRITERION_REGISTRY)
found["bpe"] = REGISTRIES["bpe"]["registry"]
print(json.dumps({kind: sorted(names) for kind, names in found.items()}))
"""


@pytest.fixture(scope="module")
def registries() -> dict[str, list[str]]:
    """The names that fairseq knows with ``--user-dir fairseq_el``, by option."""
    process = subprocess.run(
        [sys.executable, "-c", REGISTRIES], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    found: dict[str, list[str]] = json.loads(process.stdout)
    return found


@pytest.mark.parametrize("module", IMPORTED)
def test_names_can_be_imported(module):
    imported = importlib.import_module(module)
    assert [name for name in IMPORTED[module].split() if not hasattr(imported, name)] == []


@pytest.mark.parametrize("kind", REGISTERED)
def test_names_are_registered(registries, kind):
    assert set(REGISTERED[kind].split()) <= set(registries[kind])


@pytest.mark.parametrize("prefix", ["el", "topk"])
def test_architectures_are_registered(registries, prefix):
    assert {f"{prefix}_{stock}" for stock in STOCK_ARCHITECTURES.split()} <= set(registries["arch"])


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_are_known(command, capsys):
    with pytest.raises(SystemExit) as ended:
        main([*command.split(), "--help"])
    assert ended.value.code == 0 and capsys.readouterr().out.startswith(f"usage: fairseq-el {command} ")


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_documents_show_only_these_names(path, registries):
    text = path.read_text("utf-8")
    for module, names in re.findall(r"\bfrom (fairseq_el[\w.]*) import (\([^)]*\)|[^#\n]*)", text):
        shown = {name.partition(" as ")[0].strip() for name in names.strip("()").split(",")} - {""}
        assert shown <= set(IMPORTED[module].split()), f"from {module} import ..."
    for name in re.findall(r"(?<![\w/.])fairseq_el((?:\.\w+)+)", text):
        module, _, last = f"fairseq_el{name}".rpartition(".")
        known = {*IMPORTED[module].split(), "__path__", "__version__"} if module in IMPORTED else set()
        assert f"fairseq_el{name}" in IMPORTED or last in known, f"fairseq_el{name}"
    # What the page registers itself.
    own = re.findall(r"@register_(?:task|model_architecture)\((?:\"transformer\", )?\"(\w+)\"", text)
    for kind, name in re.findall(r"--(arch|task|criterion|bpe)[ =]([a-z][\w]*\w)\b(?![-/.]\w)", text):
        assert name in registries[kind] or name in own, f"--{kind} {name}"
