"""Checkpoints that were never Hugging Face's: models of fairseq's own, of the same families."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import hf_models
import pytest
import torch
from both_programs import Pair
from fairseq.data import Dictionary
from fairseq.data.multilingual.multilingual_utils import get_lang_tok
from tiny import build_model, dictionary, settings

from fairseq_el.conversion.hf import from_hf, to_hf
from fairseq_el.conversion.hf.tokenizer_files import encoder_of, merges_text
from fairseq_el.errors import FairseqElError

POST_NORM: dict[str, Any] = {"share_all_embeddings": True}
PRE_NORM: dict[str, Any] = {"encoder_normalize_before": True, "decoder_normalize_before": True}
LM: dict[str, Any] = {
    "tokens_per_sample": 64,
    "decoder_input_dim": 16,
    "decoder_output_dim": 16,
    "share_decoder_input_output_embed": True,
    "no_scale_embedding": True,
    "decoder_normalize_before": True,
    "activation_fn": "gelu_accurate",
}
LEARNED: dict[str, Any] = {"encoder_learned_pos": True, "decoder_learned_pos": True}
MULTILINGUAL: dict[str, Any] = {
    **POST_NORM,
    **PRE_NORM,
    "task": "translation_multi_simple_epoch",
    "encoder_langtok": "src",
    "decoder_langtok": True,
    "lang_tok_style": "multilingual",
}
MODELS = [
    ("transformer", {**MULTILINGUAL, "langs": ["de", "en"], "encoder_layerdrop": 0.05}, "M2M-100"),
    ("transformer_wmt_en_de_big", {**MULTILINGUAL, "langs": "deu_Latn,eng_Latn"}, "NLLB"),
    ("bart_base", POST_NORM, "BART"),
    ("el_bart_base", {**POST_NORM, "output_bias": True}, "BART"),
    ("mbart_base", {**POST_NORM, **PRE_NORM, "langs": "de_DE,en_XX"}, "mBART-50"),
    ("transformer", POST_NORM, "Marian"),
    ("transformer", {**POST_NORM, **LEARNED}, "Marian"),
    ("el_transformer", {**POST_NORM, "activation_fn": "swish", "output_bias": True}, "Marian"),
    ("transformer", {**POST_NORM, **PRE_NORM, "activation_fn": "gelu"}, "Pegasus"),
    ("transformer_lm", LM, "GPT-2"),
    ("transformer_lm", {**LM, "decoder_learned_pos": True, "activation_fn": "relu"}, "GPT-2"),
]


def save(directory: Path, arch: str, options: dict[str, Any]) -> Path:
    """A random model's checkpoint with its dictionary."""
    directory.mkdir()
    words = dictionary(20)
    words.save(str(directory / "dict.txt"))
    style = options.get("lang_tok_style", "mbart")
    langs = options.get("langs", [])
    for language in langs.split(",") if isinstance(langs, str) else langs:
        words.add_symbol(get_lang_tok(language, style))
    if langs and style == "mbart":
        words.add_symbol("<mask>")
    if style == "multilingual":  # M2M-100's own dictionary has them
        words.save(str(directory / "dict.txt"))
    write(directory, arch, words, options)
    return directory


def write(directory: Path, arch: str, words: Dictionary, options: dict[str, Any]) -> None:
    model = build_model(arch, words, 3, torch.float32, **options)
    torch.save({"args": settings(arch, **options), "model": model.state_dict()}, directory / "model.pt")


@pytest.mark.parametrize(("arch", "options", "family"), MODELS, ids=[str(i) for i in range(len(MODELS))])
def test_there_and_back(arch, options, family, tmp_path):
    """Logits are compared on the way out; weights and dictionary come back bit by bit."""
    source = save(tmp_path / "fairseq", arch, options)
    report = to_hf(source, tmp_path / "hf", verify=True)
    assert report.family == family and report.largest_difference <= 1e-5
    again = from_hf(tmp_path / "hf", tmp_path / "again")
    assert again.arch.startswith("el_") == ("output_bias" in options)
    one, other = (torch.load(path / "model.pt")["model"] for path in (source, tmp_path / "again"))
    for name, tensor in one.items():
        if "embed_positions" not in name:
            assert torch.equal(other[name], tensor), name
        elif name.endswith("weight"):  # the first two rows are never read
            assert torch.equal(other[name][2:], tensor[2:]), name
    assert (tmp_path / "again" / "dict.txt").read_bytes() == (source / "dict.txt").read_bytes()
    mine, theirs = Pair(tmp_path / "hf", tmp_path / "again").logits()
    assert (mine - theirs).abs().max() <= 1e-5 * theirs.abs().max()


@pytest.mark.parametrize(
    ("arch", "options", "message"),
    [
        ("transformer", {}, r"decoder.embed_tokens.weight is not encoder.embed_tokens.weight; decoder.output_proj"),
        (
            "transformer",
            {**POST_NORM, "encoder_normalize_before": True},
            "only one side has layer norms before its blocks",
        ),
        (
            "transformer",
            {**POST_NORM, "max_source_positions": 32},
            "--max-source-positions 32 is not --max-target-positions",
        ),
        ("transformer_lm", {**LM, "no_scale_embedding": False}, "its embeddings are scaled"),
        ("transformer_lm", {**LM, "layernorm_embedding": True}, "it has decoder.layernorm_embedding.bias"),
        ("transformer_lm", {**LM, "no_decoder_final_norm": True}, "it has no decoder.layer_norm.bias"),
        ("transformer", {**MULTILINGUAL, "langs": ["de"], **LEARNED}, "it has decoder.embed_positions.weight"),
        (
            "transformer",
            {**MULTILINGUAL, "langs": ["de"], "encoder_langtok": "tgt"},
            "with --encoder-langtok tgt, not at",
        ),
        (
            "transformer",
            {**MULTILINGUAL, "langs": ["de"], "lang_tok_style": "mbart"},
            "in the style mbart .*, not multil",
        ),
        (
            "transformer",
            {**MULTILINGUAL, "langs": ["de"], "decoder_langtok": False},
            "do not begin with their language",
        ),
        ("el_transformer", {**MULTILINGUAL, "langs": ["de"], "output_bias": True}, "projection has a bias, and it has"),
        ("el_transformer_lm", {**LM, "output_bias": True}, "the output projection has a bias, and it has none"),
    ],
)
def test_what_hugging_face_has_not(arch, options, message, tmp_path):
    with pytest.raises(FairseqElError, match=message):
        to_hf(save(tmp_path / "fairseq", arch, options), tmp_path / "hf")


@pytest.mark.parametrize("family", ["bart", "gpt2"])
def test_the_tokenizer_of_fairseqs_own_files(family, tmp_path):
    """Symbols of the dictionary are BPE ids; the tokenizer gives the indices that fairseq has."""
    words = dictionary(0)
    encoder = encoder_of(hf_models.MERGES)
    for index in encoder.values():
        words.add_symbol(str(index))
    directory = tmp_path / "fairseq"
    directory.mkdir()
    words.save(str(directory / "dict.txt"))
    (directory / "vocab.bpe").write_text(merges_text(hf_models.MERGES), encoding="utf-8")
    hf_models.write_json(directory / "encoder.json", encoder)
    arch, options = ("bart_base", POST_NORM) if family == "bart" else ("transformer_lm", LM)
    write(directory, arch, words, options)
    to_hf(directory, tmp_path / "hf", verify=True)
    tokenizer = hf_models.transformers.AutoTokenizer.from_pretrained(str(tmp_path / "hf"))
    from fairseq.data.encoders.gpt2_bpe_utils import get_encoder

    bpe = get_encoder(str(directory / "encoder.json"), str(directory / "vocab.bpe"))
    expected = [words.index(str(index)) for index in bpe.encode("in the other")]
    assert tokenizer("in the other", add_special_tokens=False)["input_ids"] == expected
    around = {"bart": ([], [2]), "gpt2": ([2], [])}[family]  # as fairseq-generate feeds them
    assert tokenizer("in the other")["input_ids"] == [*around[0], *expected, *around[1]]
    if family == "bart":
        to_hf(directory, tmp_path / "begun", begin=True)
        tokenizer = hf_models.transformers.AutoTokenizer.from_pretrained(str(tmp_path / "begun"))
        assert tokenizer("in the other")["input_ids"] == [0, *expected, 2]
        settings = json.loads((tmp_path / "begun" / "generation_config.json").read_text())
        assert settings["forced_bos_token_id"] == 0
