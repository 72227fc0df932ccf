"""The shape of the model that a command line names with ``--path`` or with ``--arch``."""

from __future__ import annotations

from typing import Any, Dict, Optional, Tuple

import fairseq
from fairseq.models import ARCH_CONFIG_REGISTRY, ARCH_MODEL_REGISTRY
from torch import Tensor

from fairseq_el.conversion import (
    HEADS,
    StandInTask,
    flat_settings,
    get_setting,
    load_checkpoint,
    most_words,
    numbered_words,
    of_one_pair,
    parameters_of,
    settings_of,
    size_problem,
    with_defaults,
    without_storage,
)
from fairseq_el.errors import OptionError
from fairseq_el.planning import ModelShape, shape_of

BART_WORDS = 50264  # bart.base and bart.large


def shape_of_checkpoint(path: str) -> ModelShape:
    """The shape of a checkpoint's model, read off its weights and settings; no model is built.

    Raises:
        OptionError: there is no such file, or it holds no Transformer.
        FairseqElError: it can't be read, or has settings that no model has.
    """
    checkpoint = of_one_pair(load_checkpoint(path, "--path"))
    settings: Any = flat_settings(checkpoint)
    try:
        if str(settings.get("arch", settings.get("_name"))) in ARCH_CONFIG_REGISTRY:
            settings = settings_of(checkpoint)  # with the defaults of the architecture
        return shape_of_weights(checkpoint.weights, settings)
    except (KeyError, ValueError) as error:
        what = f"has no {error}" if isinstance(error, KeyError) else str(error)
        raise OptionError(
            f"--path must be a checkpoint of a Transformer, BART or transformer_lm model; {path} {what}"
        ) from error


def shape_of_weights(weights: Dict[str, Any], settings: Any) -> ModelShape:
    """The shape of the model that has these weights and settings.

    Raises:
        KeyError: a weight or a setting is missing that every Transformer has.
        ValueError: a weight or a setting has a value that no Transformer has.
    """
    decoder_only = "encoder.embed_tokens.weight" not in weights
    if decoder_only and any(name.startswith("encoder.") for name in weights):
        raise ValueError("has an encoder that reads no words, as of speech")
    encoder = {"layers": 0, "dim": 0, "ffn_dim": 0, "heads": 0} if decoder_only else _side(weights, settings, "encoder")
    decoder = _side(weights, settings, "decoder")
    distinct = {(tensor.data_ptr(), tensor.shape): tensor.numel() for tensor in parameters_of(weights).values()}
    parameters = sum(distinct.values())
    if fairseq.__version__.startswith("0.12.2"):  # holds the weights of the encoder's layers twice
        dim, ffn_dim = encoder["dim"], encoder["ffn_dim"]
        parameters += encoder["layers"] * (4 * dim * (dim + 1) + 2 * dim * ffn_dim + dim + ffn_dim)
    side = "decoder" if decoder_only else "encoder"
    return ModelShape(
        **{f"encoder_{name}": value for name, value in encoder.items()},
        **{f"decoder_{name}": value for name, value in decoder.items()},
        vocab_size=_rows_and_columns(weights, "decoder.embed_tokens.weight")[0],
        parameters=parameters,
        decoder_only=decoder_only,
        pre_norm=bool(_setting(settings, side, "normalize_before")),
        gelu="gelu" in str(_setting(settings, None, "activation_fn")),
        computes_embeddings="decoder.project_in_dim.weight" in weights,
    )


def _side(weights: Dict[str, Tensor], settings: Any, side: str) -> Dict[str, int]:
    """The numbers of the ``"encoder"`` or the ``"decoder"``."""
    layers = {name.split(".")[2] for name in weights if name.startswith(f"{side}.layers.")}
    ffn_dim, dim = _rows_and_columns(weights, f"{side}.layers.0.fc1.weight")
    heads = _setting(settings, side, "attention_heads")
    problem = size_problem(f"{side}_attention_heads", heads, HEADS)
    if problem is not None:
        raise ValueError(f"has odd settings: {problem}")
    return {"layers": len(layers), "dim": dim, "ffn_dim": ffn_dim, "heads": heads}


def _rows_and_columns(weights: Dict[str, Tensor], name: str) -> Tuple[int, int]:
    if weights[name].dim() != 2:
        raise ValueError(f"has a {name} of {weights[name].dim()} dimensions, and it must have 2")
    rows, columns = weights[name].shape
    return rows, columns


def _setting(settings: Any, side: Optional[str], name: str) -> Any:
    """A setting of one side, flat (``encoder_attention_heads``) or nested (``encoder.attention_heads``)."""
    flat = name if side is None else f"{side}_{name}"
    found = get_setting(settings, flat)
    if found is None and side is not None:
        found = get_setting(get_setting(settings, side), name)
    if found is None:
        raise KeyError(f"setting {flat}")
    return found


def shape_of_architecture(arch: str, vocab_size: Optional[int]) -> ModelShape:
    """The shape of a registered architecture's model.

    Raises:
        OptionError: there is no such architecture, no vocabulary is known, or it is no Transformer.
    """
    if arch not in ARCH_MODEL_REGISTRY:
        near = sorted(name for name in ARCH_MODEL_REGISTRY if arch.partition("_")[0] in name)[:8]
        some = ", ".join(near or ["transformer", "bart_large", "transformer_lm_gpt"])
        raise OptionError(f"--arch must be one of fairseq's architectures, such as {some}; got {arch!r}")
    if vocab_size is not None and vocab_size > most_words():
        raise OptionError(f"--vocab-size must be at most {most_words():,}; got {vocab_size:,}")
    if vocab_size is None:
        if not arch.startswith(("bart_", "el_bart_")):
            raise OptionError(
                f"--vocab-size is needed with --arch {arch}: give the number of lines of its dict.*.txt plus 4 special "
                "symbols, or name a checkpoint with --path"
            )
        vocab_size = BART_WORDS
    settings = {"arch": arch, "task": "plan", "tokens_per_sample": 1024, "max_target_positions": 1024}
    try:
        with without_storage():
            task = StandInTask(numbered_words(vocab_size))
            return shape_of(ARCH_MODEL_REGISTRY[arch].build_model(with_defaults(settings), task))
    except Exception as error:  # any model of fairseq may be asked for, and fail in its own way
        raise OptionError(
            f"--arch must be a Transformer, BART or transformer_lm architecture; {arch} can't be planned for: "
            f"{str(error).partition(chr(10))[0]}"
        ) from error
