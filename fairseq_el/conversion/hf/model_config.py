"""Converts the configuration of a model: ``config.json`` and fairseq's settings."""

from __future__ import annotations

import argparse
from typing import Any, Callable, Dict, List, NamedTuple, Tuple

from fairseq_el.conversion.building import with_defaults
from fairseq_el.conversion.hf.families import (
    ACTIVATIONS,
    M2M100,
    NLLB200,
    ONLY_EL_ACTIVATIONS,
    Family,
    ModelSizes,
    family_of,
)
from fairseq_el.conversion.hf.hf_directory import CONFIG, HFDirectory
from fairseq_el.conversion.hf.vocabulary import EOS, Vocabulary
from fairseq_el.conversion.hf.weights import Weights
from fairseq_el.conversion.limits import HEADS, HIDDEN, LAYERS, POSITIONS, WIDTH, WORDS, is_share, shown, size_problem
from fairseq_el.errors import FairseqElError

Config = Dict[str, Any]


class _Rule(NamedTuple):
    """A rule that a setting must keep for fairseq to compute the same. A missing setting has the value ``default``."""

    key: str
    default: Any
    holds: Callable[[Any], bool]
    rule: str


_DROPOUTS = ("dropout", "attention_dropout", "activation_dropout", "resid_pdrop", "attn_pdrop")
_LAYERDROPS = ("encoder_layerdrop", "decoder_layerdrop")
_KNOWN = list(ACTIVATIONS)
_FUNCTION = _Rule("activation_function", "gelu", lambda value: value in _KNOWN, f"one of {', '.join(_KNOWN)}")
_RULES = (
    _Rule("tie_word_embeddings", True, lambda value: value is True, "true: one embedding for input and output"),
    _Rule("eos_token_id", 2, lambda value: isinstance(value, int), "one number"),
    _Rule("pad_token_id", None, lambda value: value is None or isinstance(value, int), "one number"),
    _Rule("task_specific_params", None, lambda value: isinstance(value, (dict, type(None))), "settings by task"),
    *(_Rule(name, None, is_share, "from 0 to 1") for name in (*_DROPOUTS, *_LAYERDROPS)),
    _Rule("quantization_config", None, lambda value: value is None, "absent: weights must be plain numbers"),
)
_ENCODER_DECODER_RULES = (
    _FUNCTION,
    _Rule("scale_embedding", False, lambda value: value in (None, True, False), "true or false"),
    _Rule("is_encoder_decoder", True, lambda value: value is True, "true"),
    _Rule("share_encoder_decoder_embeddings", True, lambda value: value is True, "true: one vocabulary for both sides"),
)
_GPT2_RULES = (
    _FUNCTION._replace(default="gelu_new"),
    _Rule("add_cross_attention", False, lambda value: not value, "false"),
    _Rule("scale_attn_weights", True, lambda value: value is True, "true"),
    _Rule("scale_attn_by_inverse_layer_idx", False, lambda value: not value, "false"),
    _Rule("layer_norm_epsilon", 1e-5, lambda value: value == 1e-5, "1e-05, fairseq's"),
    _Rule("n_inner", None, lambda value: value is None or not size_problem("", value, HIDDEN), "a number above 0"),
)
_M2M_DEFAULTS = {"activation_function": "relu", "scale_embedding": True}  # other than BART's
_SIZES = {"d_model": WIDTH, "max_position_embeddings": POSITIONS, "vocab_size": WORDS}
_SIDE_SIZES = {"layers": LAYERS, "attention_heads": HEADS, "ffn_dim": HIDDEN}
_GPT2_SIZES = {"n_embd": WIDTH, "n_positions": POSITIONS, "vocab_size": WORDS, "n_layer": LAYERS, "n_head": HEADS}


def read_config(directory: HFDirectory) -> Tuple[Family, ModelSizes]:
    """Reads the family and the sizes of a model.

    Raises:
        FairseqElError: fairseq can't compute the same; every option of ``config.json`` that is a reason is named.
    """
    family = family_of(directory.config, _tokenizer_class(directory), directory.path / CONFIG)
    config = directory.config
    if family.model_type == M2M100.model_type:
        config = {**_M2M_DEFAULTS, **config}
    problems = config_problems(family, config)
    if problems:
        listed = "\n".join(f"  - {problem}" for problem in problems)
        raise FairseqElError(
            f"{directory.path / CONFIG} has settings with which fairseq can't compute the same as "
            f"{family.name}:\n{listed}\n"
            "Such a model can't be converted; use a checkpoint without them"
        )
    return family, _sizes(family, config)


def _tokenizer_class(directory: HFDirectory) -> str:
    """Finds the class of the tokenizer, which tells families of one type apart."""
    known = [of.get("tokenizer_class") for of in (directory.json("tokenizer_config.json"), directory.config)]
    found = next((name for name in known if name), None)
    if found is None and directory.config.get("model_type") == M2M100.model_type and not directory.has("vocab.json"):
        return NLLB200.tokenizer  # M2M-100's tokenizer can't be without that file
    return str(found)


def config_problems(family: Family, config: Config) -> List[str]:
    """Lists everything in ``config.json`` that fairseq can't do, or that is missing."""
    rules = _GPT2_RULES if family.decoder_only else _ENCODER_DECODER_RULES
    found = []
    for rule in (*_RULES, *rules):
        value = config.get(rule.key, rule.default)
        if not rule.holds(value):
            found.append(f"{rule.key} must be {rule.rule}; it is {shown(value)}")
    sizes = _GPT2_SIZES
    if not family.decoder_only:
        of_sides = {f"{side}_{name}": most for side in family.sides for name, most in _SIDE_SIZES.items()}
        sizes = {**_SIZES, **of_sides}
    wrong = [
        problem for key, most in sizes.items() for problem in [size_problem(key, config.get(key), most)] if problem
    ]
    found.extend(wrong)
    if not wrong:
        width = config["n_embd" if family.decoder_only else "d_model"]
        for side in family.sides:
            heads = config["n_head" if family.decoder_only else f"{side}_attention_heads"]
            if width % heads:
                found.append(
                    f"the width must be a multiple of the heads; {width} is not a multiple of the {side}'s {heads}"
                )
    if config.get("decoder_vocab_size") not in (None, config.get("vocab_size")):
        found.append(
            f"decoder_vocab_size must be vocab_size {shown(config.get('vocab_size'))}, one vocabulary for both sides; "
            f"it is {shown(config['decoder_vocab_size'])}"
        )
    return found


def _sizes(family: Family, config: Config) -> ModelSizes:
    if family.decoder_only:
        d = config["n_embd"]
        return ModelSizes(
            d, {"decoder": config["n_layer"]}, {"decoder": config["n_head"]},
            {"decoder": config.get("n_inner") or 4 * d}, config["n_positions"], config["vocab_size"],
            ACTIVATIONS[config.get("activation_function", "gelu_new")], False,
            (float(config.get("resid_pdrop") or 0.0), float(config.get("attn_pdrop") or 0.0), 0.0),
        )  # fmt: skip
    layers, heads, ffn = ({side: config[f"{side}_{name}"] for side in family.sides} for name in _SIDE_SIZES)
    dropout = tuple(float(config.get(name) or 0.0) for name in ("dropout", "attention_dropout", "activation_dropout"))
    return ModelSizes(
        config["d_model"], layers, heads, ffn, config["max_position_embeddings"], config["vocab_size"],
        ACTIVATIONS[config.get("activation_function", "gelu")], bool(config.get("scale_embedding", False)),
        dropout,  # type: ignore[arg-type]
        tuple(float(config.get(name) or 0.0) for name in _LAYERDROPS),  # type: ignore[arg-type]
    )  # fmt: skip


def config_of(family: Family, sizes: ModelSizes) -> Config:
    """Makes ``config.json``, without the ids of special tokens, which the vocabulary has."""
    activation = next(name for name, fairseq_name in ACTIVATIONS.items() if fairseq_name == sizes.activation)
    config: Config = {
        "architectures": [family.architecture],
        "model_type": family.model_type,
        "vocab_size": sizes.vocab,
        "activation_function": activation,
        "tie_word_embeddings": True,
    }
    if family.decoder_only:
        return {
            **config, "n_embd": sizes.d, "n_positions": sizes.positions, "n_ctx": sizes.positions,
            "n_layer": sizes.layers["decoder"], "n_head": sizes.heads["decoder"], "n_inner": sizes.ffn["decoder"],
            "resid_pdrop": sizes.dropout[0], "embd_pdrop": sizes.dropout[0], "attn_pdrop": sizes.dropout[1],
            "layer_norm_epsilon": 1e-5,
        }  # fmt: skip
    for side in family.sides:
        values = (sizes.layers, sizes.heads, sizes.ffn)
        config.update({f"{side}_{name}": value[side] for name, value in zip(_SIDE_SIZES, values)})
    if family.model_type == M2M100.model_type:  # two families have the type
        config["tokenizer_class"] = family.tokenizer
    dropouts = dict(zip(("dropout", "attention_dropout", "activation_dropout"), sizes.dropout))
    dropouts.update(zip(_LAYERDROPS, sizes.layerdrop))
    return {
        **config, "d_model": sizes.d, "max_position_embeddings": sizes.positions, "scale_embedding": sizes.scale,
        "is_encoder_decoder": True, "num_hidden_layers": sizes.layers["encoder"], **dropouts,
    }  # fmt: skip


def fairseq_settings(
    family: Family, sizes: ModelSizes, vocabulary: Vocabulary, weights: Weights, language_pair: Tuple[str, str]
) -> argparse.Namespace:
    """Makes all settings of the model, and those of its task that matter, as old checkpoints keep them in ``args``.

    Args:
        weights: by fairseq's names.
        language_pair: source and target.
    """
    tied = vocabulary.start == EOS  # one embedding for both sides and the output projection
    has_bias = "decoder.output_projection.bias" in weights
    only_el = has_bias or sizes.activation in ONLY_EL_ACTIVATIONS  # fairseq's own architecture does not have it
    settings: Dict[str, Any] = {
        "arch": f"el_{family.arch}" if only_el else family.arch,
        "task": family.task,
        "criterion": "cross_entropy",
        "activation_fn": sizes.activation,
        **dict(zip(("dropout", "attention_dropout", "activation_dropout"), sizes.dropout)),
        "no_scale_embedding": not sizes.scale,
        "layernorm_embedding": family.embedding_norm,
        "share_decoder_input_output_embed": tied,
        "decoder_input_dim": sizes.d,
        "decoder_output_dim": sizes.d,
        "max_target_positions": sizes.positions,
    }
    for side in family.sides:
        settings.update(
            {
                f"{side}_embed_dim": sizes.d,
                f"{side}_ffn_embed_dim": sizes.ffn[side],
                f"{side}_layers": sizes.layers[side],
                f"{side}_attention_heads": sizes.heads[side],
                f"{side}_normalize_before": family.pre_norm,
                f"{side}_learned_pos": not family.same_sinusoids,
            }
        )
    if family.decoder_only:
        settings.update(tokens_per_sample=sizes.positions, sample_break_mode="none", add_bos_token=False)
    else:
        settings.update(share_all_embeddings=tied, max_source_positions=sizes.positions)
        settings.update(zip(_LAYERDROPS, sizes.layerdrop))
        settings.update(_translation_settings(family, vocabulary.languages, language_pair))
    if has_bias:
        settings["output_bias"] = True
    return with_defaults(settings)


def _translation_settings(family: Family, languages: List[str], language_pair: Tuple[str, str]) -> Dict[str, Any]:
    source, target = language_pair
    settings: Dict[str, Any] = {"source_lang": source, "target_lang": target}
    if family.languages is None or family.task != "translation_multi_simple_epoch":
        settings.update(left_pad_source=True, left_pad_target=False)
        return {**settings, "langs": ",".join(languages)} if languages else settings
    return {
        **settings, "langs": languages, "lang_pairs": f"{source}-{target}", "lang_tok_style": family.languages.style,
        "encoder_langtok": "src", "decoder_langtok": True, "seed": 1,  # the task reads it and does not define it
    }  # fmt: skip
