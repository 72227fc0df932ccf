"""Tiny random models of Hugging Face's classes, saved with tokenizers of as many words."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from fairseq_el.conversion.hf.tokenizer_files import byte_symbols, encoder_of, merges_text

transformers = pytest.importorskip("transformers", reason="transformers is not installed: pip install fairseq_el[hf]")
pytest.importorskip("safetensors", reason="safetensors is not installed: pip install fairseq_el[hf]")
if not transformers.utils.is_torch_available():
    pytest.skip("transformers does not work with this torch, which is too old for it", allow_module_level=True)

MERGES = [("Ġ", "t"), ("Ġ", "a"), ("h", "e"), ("i", "n"), ("r", "e"), ("o", "n"), ("Ġt", "he"), ("e", "r")]
LANGUAGES = ["ar_AR", "de_DE", "en_XX", "ro_RO"]
NLLB_LANGUAGES = ["deu_Latn", "eng_Latn", "ron_Latn"]
WMT21_LANGUAGES = [f"__{language}__" for language in ("en", "ha", "is", "ja", "cs", "ru", "zh", "de")]
WORDS = 48  # of vocabularies that are not byte-level
SEQ2SEQ = {
    "d_model": 16,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_ffn_dim": 24,
    "decoder_ffn_dim": 20,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 2,
    "max_position_embeddings": 40,
}


def byte_tokens(family: str) -> list[str]:
    """By id; BART keeps few bytes, so that outputs vary."""
    symbols = [*encoder_of(MERGES)]
    if family == "gpt2":
        return symbols
    chosen = [*byte_symbols()[32:64], *("".join(pair) for pair in MERGES), "<|endoftext|>", "madeupword0000"]
    return ["<s>", "<pad>", "</s>", "<unk>", *chosen, "<mask>"]


def pieces(count: int) -> list[str]:
    return [f"▁w{i}" if i % 3 else f"w{i}" for i in range(count)]


def vocabulary(family: str) -> list[str]:
    """Tokens by id."""
    if family in ("bart", "gpt2"):
        return byte_tokens(family)
    if family == "marian":
        return ["</s>", "<unk>", *pieces(WORDS), "<pad>"]
    if family == "pegasus":
        return ["<pad>", "</s>", "<mask_1>", "<mask_2>", "<unk_2>", "<unk>", *pieces(WORDS)]
    words = ["<s>", "<pad>", "</s>", "<unk>", *pieces(WORDS)]
    if family == "m2m100":
        return [*words, *WMT21_LANGUAGES, "madeupword0000", "madeupword0001"]
    if family == "nllb":
        return [*words, *NLLB_LANGUAGES, "<mask>", "madeupword0000"]
    return [*words, *LANGUAGES, "<mask>"]


def build(family: str, seed: int, **options: Any) -> Any:
    """A random model in evaluation mode, with every weight and bias drawn anew."""
    config = _config(family, len(vocabulary(family)), options)
    torch.manual_seed(seed)
    name = {"gpt2": "GPT2LMHeadModel", "marian": "MarianMTModel"}.get(family)
    kinds = {"bart": "Bart", "pegasus": "Pegasus", "m2m100": "M2M100", "nllb": "M2M100"}
    name = name or kinds.get(family, "MBart") + "ForConditionalGeneration"
    model = getattr(transformers, name)(config)
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            _draw(key, parameter)
        if hasattr(model, "final_logits_bias") and family == "marian":
            model.final_logits_bias.normal_(std=0.3)
        _let_outputs_end(model, family)
    return model.eval()


def _let_outputs_end(model: Any, family: str) -> None:
    """Gives the eos a larger logit: what happens at the longest outputs is not the same in both programs."""
    last_norm = {
        "gpt2": lambda: model.transformer.ln_f,
        "bart": lambda: model.model.decoder.layers[-1].final_layer_norm,
        "marian": lambda: model.model.decoder.layers[-1].final_layer_norm,
    }.get(family, lambda: model.model.decoder.layer_norm)()
    last_norm.bias.normal_(std=0.5)
    boost = 6.0 if family in ("marian", "pegasus") else 3.0
    embedding = model.get_input_embeddings().weight
    embedding[model.config.eos_token_id] += boost * last_norm.bias / last_norm.bias.square().sum()


def _draw(key: str, parameter: torch.Tensor) -> None:
    """The spread makes attention sharp, and hypotheses vary in words and length."""
    if not parameter.requires_grad:  # sinusoids
        return
    if key.endswith("bias"):
        parameter.normal_(std=0.1)
    elif parameter.dim() == 1:
        parameter.uniform_(0.7, 1.3)
    else:
        embedding = any(part in key for part in ("shared", "embed", "wte", "wpe", "lm_head"))
        gain = 2.0 if embedding else 3.0 if "q_proj" in key or "k_proj" in key else 0.9
        parameter.normal_(std=gain * (parameter.size(1 if embedding else 0)) ** -0.5)


def _config(family: str, size: int, options: dict[str, Any]) -> Any:
    ids = {token: index for index, token in enumerate(vocabulary(family))}
    if family == "gpt2":
        end = ids["<|endoftext|>"]
        sizes = {"n_embd": 16, "n_layer": 2, "n_head": 4, "n_inner": 24, "n_positions": 40}
        return transformers.GPT2Config(
            **{"vocab_size": size, **sizes, "bos_token_id": end, "eos_token_id": end, **options}
        )
    special: dict[str, Any] = {
        "bos_token_id": ids.get("<s>"),
        "pad_token_id": ids["<pad>"],
        "eos_token_id": ids["</s>"],
        "forced_eos_token_id": None,
        "decoder_start_token_id": ids["<pad>" if family in ("marian", "pegasus") else "</s>"],
    }
    own: dict[str, Any] = {
        "marian": {"scale_embedding": True, "activation_function": "swish"},
        "pegasus": {"scale_embedding": True, "activation_function": "relu"},
        "mbart50": {"scale_embedding": True, "activation_function": "relu"},
        "mbart25": {"scale_embedding": True, "decoder_start_token_id": ids.get("ro_RO")},
    }.get(family, {})
    classes = {"bart": "BartConfig", "marian": "MarianConfig", "pegasus": "PegasusConfig"}
    classes.update(m2m100="M2M100Config", nllb="M2M100Config")
    return getattr(transformers, classes.get(family, "MBartConfig"))(
        **{"vocab_size": size, **SEQ2SEQ, **special, **own, **options}
    )


def write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content), encoding="utf-8")


def save(model: Any, family: str, path: Path, **generation: Any) -> Path:
    """As ``save_pretrained``, with generation settings and the files of a tokenizer."""
    model.generation_config = transformers.GenerationConfig(
        **{
            **{name: getattr(model.config, name, None) for name in ("bos_token_id", "pad_token_id", "eos_token_id")},
            "decoder_start_token_id": getattr(model.config, "decoder_start_token_id", None),
            **generation,
        }
    )
    model.save_pretrained(path)
    tokens = vocabulary(family)
    if family in ("bart", "gpt2", "marian", "m2m100"):
        if family == "m2m100":  # the class puts languages behind these
            tokens = [token for token in tokens if not token.startswith(("__", "madeup"))]
        (path / "vocab.json").write_text(json.dumps({token: index for index, token in enumerate(tokens)}))
        if family in ("bart", "gpt2"):
            (path / "merges.txt").write_text(merges_text(MERGES), encoding="utf-8")
    else:
        tokens = [token for token in tokens if not token.startswith("madeup")]
        content = {"model": {"type": "Unigram", "vocab": [[token, 0.0] for token in tokens]}, "added_tokens": []}
        (path / "tokenizer.json").write_text(json.dumps(content))
    names = {"mbart25": "MBartTokenizer", "mbart50": "MBart50Tokenizer", "nllb": "NllbTokenizer"}
    names["m2m100"] = "M2M100Tokenizer"
    if family in names:
        settings = {"tokenizer_class": names[family]}
        if family == "m2m100":
            settings["language_codes"] = "wmt21"
        (path / "tokenizer_config.json").write_text(json.dumps(settings))
    return path
