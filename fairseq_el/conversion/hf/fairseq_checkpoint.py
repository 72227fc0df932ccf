"""Reads a fairseq checkpoint with its dictionary and tokenizer as a model of one of Hugging Face's families."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any, Dict, List, Optional

from fairseq.data import Dictionary
from fairseq.modules import SinusoidalPositionalEmbedding

from fairseq_el.conversion.building import checked_settings
from fairseq_el.conversion.checkpoint import (
    Checkpoint,
    dictionary_names,
    load_checkpoint,
    parameters_of,
    read_dictionary,
)
from fairseq_el.conversion.hf.families import (
    ACTIVATIONS,
    BART,
    GPT2,
    M2M100,
    MARIAN,
    MBART25,
    MBART50,
    NLLB200,
    PEGASUS,
    Family,
    ModelSizes,
    layer_tensors,
)
from fairseq_el.conversion.hf.generation_config import hf_generation
from fairseq_el.conversion.hf.hf_directory import CONFIG, HFDirectory
from fairseq_el.conversion.hf.languages import M2M, NLLB
from fairseq_el.conversion.hf.model import Model
from fairseq_el.conversion.hf.model_config import config_problems
from fairseq_el.conversion.hf.tokenizer import hf_tokenizer
from fairseq_el.conversion.hf.tokenizer_files import LANGUAGES, MODEL, OPTIONS, ORIGINALS
from fairseq_el.conversion.hf.vocabulary import BOS, EOS, Vocabulary, read_vocabulary
from fairseq_el.conversion.hf.weights import FIRST_POSITION, Weights
from fairseq_el.conversion.limits import listed, shown
from fairseq_el.conversion.relabel import stock_name
from fairseq_el.errors import FairseqElError, OptionError, shortened
from fairseq_el.files import read_text

_TEMPLATE = "--el-source-template"


def read_fairseq(path: Path, data: Optional[Path], begin: bool) -> Model:
    """Reads a checkpoint and what lies beside its dictionary: tokenizer and generation options.

    Args:
        path: of a checkpoint, or of a directory with ``model.pt``.
        data: directory of the dictionary (default: that of the checkpoint).
        begin: sources and outputs of a BART model begin with ``<s>``, as fairseq's hub has them.

    Raises:
        OptionError: a file or directory does not exist, or ``begin`` is given for another model.
        FairseqElError: a file can't be read, or no family computes the same as the model; every reason is named.
    """
    if path.is_dir():
        if not (path / MODEL).is_file():
            raise OptionError(f"CKPT must be a checkpoint, or a directory with {MODEL}; {path} has no {MODEL}")
        path = path / MODEL
    checkpoint = load_checkpoint(str(path), "CKPT")
    _check_architecture(checkpoint)
    settings = checked_settings(checkpoint)
    directory = data or path.parent
    family = _family(checkpoint, settings, directory)
    weights = parameters_of(checkpoint.weights)
    words = _dictionary(directory, family, checkpoint, settings)
    problems = _problems(family, settings, weights, words)
    if problems:
        raise FairseqElError(
            f"{path} can't be a {family.name} model of Hugging Face's, the nearest to its layers: {listed(problems)}"
        )
    _add_positions(weights, family, settings)
    sizes = _sizes(family, settings, weights)
    originals = directory / ORIGINALS
    original = HFDirectory(originals) if (originals / CONFIG).is_file() else None
    options = _generate_options(directory)
    begin = _begins(family, options, original, begin)
    vocabulary = _vocabulary(directory, family, words, original)
    generation: Dict[str, Any] = {}
    notes: List[str] = []
    if original is None:
        target = getattr(settings, "target_lang", None)
        generation, notes = hf_generation(options, family, sizes.positions, vocabulary, target, begin)
    tokenizer = hf_tokenizer(directory, family, vocabulary, begin)
    notes += tokenizer.notes
    return Model(path, family, sizes, vocabulary, weights, settings, generation, tokenizer, original, notes)


def _check_architecture(checkpoint: Checkpoint) -> None:
    if not stock_name(checkpoint.arch).startswith(("bart_", "mbart_", "transformer")):
        raise FairseqElError(
            "to-hf needs a model of an architecture bart_*, mbart_*, transformer* or transformer_lm*; "
            f"{checkpoint.path} has {checkpoint.arch}"
        )


def _family(checkpoint: Checkpoint, settings: argparse.Namespace, directory: Path) -> Family:
    """Finds the family whose layers are like the model's."""
    if stock_name(checkpoint.arch).startswith("transformer_lm"):
        return GPT2
    if "decoder.layernorm_embedding.weight" in checkpoint.weights:
        if not settings.decoder_normalize_before:
            return BART
        return MBART25 if "translation_from_pretrained_bart" in settings.task else MBART50
    if settings.decoder_normalize_before and "translation_multi_simple_epoch" in settings.task:
        are_nllbs = all(NLLB.of_token(language) is not None for language in _languages(directory, settings))
        return NLLB200 if are_nllbs else M2M100
    return PEGASUS if settings.decoder_normalize_before else MARIAN


def _dictionary(directory: Path, family: Family, checkpoint: Checkpoint, settings: argparse.Namespace) -> Dictionary:
    names = dictionary_names(checkpoint)
    found = [directory / name for name in names if (directory / name).is_file()]
    if not found:
        raise OptionError(
            f"the dictionary must lie beside the checkpoint, or in --data DIR, as one of {', '.join(names)}; "
            f"{directory} has none of them"
        )
    if len({path.read_bytes() for path in found}) > 1:
        listed = ", ".join(path.name for path in found)
        raise FairseqElError(
            f"Hugging Face's models have one vocabulary for both languages; {listed} in {directory} differ"
        )
    words = read_dictionary(found[0])
    tokens = family.languages
    if tokens is not None:
        symbols = [tokens.symbol_of(language) for language in _languages(directory, settings)]
        for symbol in (*symbols, *(["<mask>"] if tokens.added else [])):  # as the task does
            if symbol not in words:  # its count would grow
                words.add_symbol(symbol)
    return words


def _languages(directory: Path, settings: argparse.Namespace) -> List[str]:
    """Lists languages in the order of their symbols, from the settings or from the file that ``from-hf`` writes."""
    languages = getattr(settings, "langs", None)
    if languages:
        found = languages.split(",") if isinstance(languages, str) else languages
        if not isinstance(found, (list, tuple)) or not all(isinstance(name, str) for name in found):
            raise FairseqElError(f"the checkpoint's setting langs must be names of languages; it is {shown(languages)}")
        return list(found)
    if not (directory / LANGUAGES).is_file():
        raise OptionError(
            f"the checkpoint must name its languages in --langs, or {LANGUAGES} beside the dictionary must have one on "
            f"each line, because the task adds them to the dictionary; {directory} has none"
        )
    return read_text(directory / LANGUAGES, f"{LANGUAGES} must have a language on each line").split()


def _problems(family: Family, settings: argparse.Namespace, weights: Weights, words: Dictionary) -> List[str]:
    problems = []
    if settings.activation_fn not in ACTIVATIONS.values():
        problems.append(f"its activation is {settings.activation_fn}")
    if getattr(settings, "no_token_positional_embeddings", False):
        problems.append("it has no positions")
    for name in ("adaptive_softmax_cutoff", "character_embeddings", "adaptive_input"):
        if getattr(settings, name, None):
            problems.append(f"it has {name}")
    if family.decoder_only:
        if not settings.no_scale_embedding:
            problems.append("its embeddings are scaled (no --no-scale-embedding)")
        if getattr(settings, "add_bos_token", False):
            problems.append("its prompts begin with <s> (--add-bos-token), not with the eos")
    else:
        if bool(settings.encoder_normalize_before) != bool(settings.decoder_normalize_before):
            problems.append("only one side has layer norms before its blocks")
        if family.same_sinusoids:
            problems.extend(_language_problems(settings))
        if settings.max_source_positions != settings.max_target_positions:
            problems.append(
                f"--max-source-positions {settings.max_source_positions} is not --max-target-positions "
                f"{settings.max_target_positions}"
            )
    problems.extend(_tensor_problems(family, settings, weights, words))
    return problems


def _language_problems(settings: argparse.Namespace) -> List[str]:
    """Lists what keeps M2M-100's tokenizers from giving the task's languages: ``src X </s>``, and a forced target."""
    problems = []
    style = getattr(settings, "lang_tok_style", M2M.style)
    if style != M2M.style:
        problems.append(f"its languages are written in the style {style} (--lang-tok-style), not {M2M.style}")
    encoder = getattr(settings, "encoder_langtok", None)
    if encoder != "src" or getattr(settings, "lang_tok_replacing_bos_eos", False):
        where = "in the place of the eos" if encoder == "src" else f"with --encoder-langtok {encoder}"
        problems.append(f"its sources have their language {where}, not at their beginning (--encoder-langtok src)")
    if not getattr(settings, "decoder_langtok", False):
        problems.append("its outputs do not begin with their language (--decoder-langtok)")
    return problems


def _tensor_problems(family: Family, settings: argparse.Namespace, weights: Weights, words: Dictionary) -> List[str]:
    embeddings = [f"{side}.embed_tokens.weight" for side in family.sides]
    missing = [name for name in embeddings if name not in weights]
    if missing:
        return [f"it has no {name}" for name in missing]
    symbols = {tuple(weights[name].shape) for name in embeddings}
    if len(symbols) > 1:
        return [f"its sides have embeddings of different sizes {sorted(symbols)}"]
    ((rows, *_),) = symbols
    problems = [f"{name} has {weights[name].dim()} dimensions" for name in embeddings if weights[name].dim() != 2]
    if problems:
        return problems
    if rows != len(words):
        problems.append(f"its embedding has {rows} rows and the dictionary {len(words)} symbols")
    sizes = _sizes(family, settings, weights)
    for side, heads in sizes.heads.items():
        if sizes.d % heads:
            problems.append(f"its width {sizes.d} is not a multiple of the {side}'s {heads} heads")
    shapes = {name: pair.shape for pair in layer_tensors(family, sizes) for name in pair.fairseq}
    wrong = {
        name: weights[name].shape for name, shape in shapes.items() if name in weights and weights[name].shape != shape
    }
    problems.extend(f"{name} must be {shapes[name]} by its settings; it is {tuple(wrong[name])}" for name in wrong)
    expected = set(shapes)
    optional = set() if family.same_sinusoids else {f"{side}.embed_positions.weight" for side in family.sides}
    optional |= {"decoder.output_projection.weight", "decoder.output_projection.bias"}
    problems.extend(f"it has no {name}" for name in sorted(expected - set(weights)))
    problems.extend(f"it has {name}" for name in sorted(set(weights) - expected - optional - set(embeddings)))
    return problems


def _sizes(family: Family, settings: argparse.Namespace, weights: Weights) -> ModelSizes:
    layers: Dict[str, int] = {}
    for side in family.sides:
        layers[side] = len({name.split(".")[2] for name in weights if name.startswith(f"{side}.layers.")})
    table = weights.get("decoder.embed_positions.weight")
    vocab, d = weights["decoder.embed_tokens.weight"].shape
    return ModelSizes(
        d,
        layers,
        {side: getattr(settings, f"{side}_attention_heads") for side in family.sides},
        {side: getattr(settings, f"{side}_ffn_embed_dim") for side in family.sides},
        settings.max_target_positions if table is None else table.size(0) - FIRST_POSITION,
        vocab,
        str(settings.activation_fn),
        not settings.no_scale_embedding,
        (settings.dropout, settings.attention_dropout, getattr(settings, "activation_dropout", None) or 0.0),
        tuple(float(getattr(settings, f"{side}_layerdrop", None) or 0.0) for side in ("encoder", "decoder")),  # type: ignore[arg-type]
    )


def _add_positions(weights: Weights, family: Family, settings: argparse.Namespace) -> None:
    """Adds fairseq's sinusoids as tables where the model computes them."""
    count, d = settings.max_target_positions + FIRST_POSITION, weights["decoder.embed_tokens.weight"].size(1)
    for side in () if family.same_sinusoids else family.sides:
        if f"{side}.embed_positions.weight" not in weights:
            table = SinusoidalPositionalEmbedding.get_embedding(count, d, FIRST_POSITION - 1)
            weights[f"{side}.embed_positions.weight"] = table


def _generate_options(directory: Path) -> List[str]:
    """Reads the lines of ``generate.args``, if it is there."""
    path = directory / OPTIONS
    return read_text(path, f"{OPTIONS} must be text").split("\n") if os.path.lexists(path) else []


def _begins(family: Family, options: List[str], original: Optional[HFDirectory], begin: bool) -> bool:
    """Returns whether sources begin with ``<s>``: by the option, or by the ``generate.args`` that from-hf wrote."""
    if begin and (family is not BART or original is not None):
        raise OptionError(
            "--begin is for BART models of fairseq's own: others have no <s> before their sources, and those that came "
            "from Hugging Face have their tokenizer as it was; leave it out"
        )
    templates = {line.partition(" ")[2] for line in options if line.startswith(_TEMPLATE)}
    known = f"{BOS},X,{EOS}"
    if not templates <= {known} and original is None:
        raise FairseqElError(
            f"{_TEMPLATE} in {OPTIONS} must be {known}, as BART's tokenizer has it, or not be there; it is "
            f"{shortened(', '.join(sorted(templates)))}"
        )
    return begin or known in templates


def _vocabulary(directory: Path, family: Family, words: Dictionary, original: Optional[HFDirectory]) -> Vocabulary:
    """Gives each symbol its id: as Hugging Face's model had it, if the checkpoint was made of one, or fairseq's own."""
    symbols = list(words.symbols)
    if original is None:
        languages: List[str] = []
        if family.languages is not None:
            found = [family.languages.of_symbol(symbol) for symbol in symbols]
            languages = [language for language in found if language is not None]
        return Vocabulary(symbols, list(range(len(symbols))), EOS, languages, counts=list(words.count))
    problems = config_problems(family, original.config)
    if problems:
        raise FairseqElError(f"{original.path / CONFIG} must be the model's own: {'; '.join(problems)}. Copy it again")
    vocabulary = read_vocabulary(original, family) if original.config["vocab_size"] <= len(symbols) else None
    if vocabulary is None or vocabulary.symbols != symbols:
        raise FairseqElError(
            f"the dictionary in {directory} must have the symbols of the tokenizer in {original.path}, because both "
            f"came from one model; they differ. Remove {original.path} to convert with the dictionary's own ids"
        )
    vocabulary.counts = list(words.count)
    return vocabulary
