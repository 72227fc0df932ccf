"""Converts a Hugging Face model to a directory that fairseq's programs run on."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, Dict, List, Tuple

import fairseq

import fairseq_el
from fairseq_el.conversion.checkpoint import Checkpoint, save_checkpoint
from fairseq_el.conversion.hf.families import MBART25
from fairseq_el.conversion.hf.generation_config import fairseq_options, generation_settings
from fairseq_el.conversion.hf.hf_directory import CONFIG, GENERATION, HFDirectory
from fairseq_el.conversion.hf.languages import LanguageTokens
from fairseq_el.conversion.hf.logits import compare_logits
from fairseq_el.conversion.hf.model import ConversionSummary, Model
from fairseq_el.conversion.hf.model_config import fairseq_settings, read_config
from fairseq_el.conversion.hf.tokenizer import fairseq_tokenizer
from fairseq_el.conversion.hf.tokenizer_files import DICTIONARY, LANGUAGES, MODEL, OPTIONS, ORIGINALS, TOKENIZER_FILES
from fairseq_el.conversion.hf.vocabulary import Vocabulary, read_vocabulary
from fairseq_el.conversion.hf.weights import check_tensors, fairseq_weights
from fairseq_el.conversion.relabel import PREFIX
from fairseq_el.conversion.strip import strip
from fairseq_el.files import refuse_to_overwrite_directory, write_whole_directory
from fairseq_el.tokenization import DESCRIPTION

_BY = "fairseq-el convert from-hf"


def from_hf(source: Path, out: Path, force: bool = False, verify: bool = False) -> ConversionSummary:
    """Writes the directory ``out``.

    Args:
        verify: compare logits of both programs before ``out`` appears.

    Raises:
        OptionError: ``out`` exists and may not be replaced, or ``source`` does not exist.
        FairseqElError: the model can't be read or converted, or logits differ.
    """
    directory = HFDirectory(source)
    refuse_to_overwrite_directory(out, "--out", force, _BY, [source, *source.iterdir()])
    model = read_hf(directory)
    options, notes = _generate_options(model)
    notes = [*model.notes, *notes, *_family_notes(model)]
    arch, symbols = model.settings.arch, len(model.vocabulary.symbols)
    summary = ConversionSummary(model.family.name, arch, len(model.weights), symbols, notes, _usage(model))

    def write(unfinished: Path) -> None:
        write_fairseq(model, options, unfinished)
        if verify:
            summary.largest_difference = compare_logits(source, unfinished)

    write_whole_directory(out, write, _BY, replace=force)
    return summary


def read_hf(directory: HFDirectory) -> Model:
    """Reads a model that ``save_pretrained`` wrote.

    Raises:
        FairseqElError: a file can't be read, or fairseq can't compute the same; every reason is named.
    """
    family, sizes = read_config(directory)
    tensors = check_tensors(directory.tensors(), family, sizes, directory.path)
    vocabulary = read_vocabulary(directory, family)  # after the weights, which have as many rows as config.json says
    weights = fairseq_weights(tensors, family, sizes, vocabulary)
    tokens = family.languages
    pair = _language_pair(vocabulary, directory, tokens) if tokens is not None else ("source", "target")
    settings = fairseq_settings(family, sizes, vocabulary, weights, pair)
    tokenizer = fairseq_tokenizer(directory, family, vocabulary)
    generation = generation_settings(directory.config, directory.json(GENERATION))
    notes = [*vocabulary.notes, *tokenizer.notes]
    return Model(directory.path, family, sizes, vocabulary, weights, settings, generation, tokenizer, directory, notes)


def _language_pair(vocabulary: Vocabulary, directory: HFDirectory, tokens: LanguageTokens) -> Tuple[str, str]:
    """Finds source and target: those that the files name; else the tokenizer's own source, and the last language.

    The target is what decoding begins with.
    """
    languages, symbols = vocabulary.languages, dict(zip(vocabulary.ids, vocabulary.symbols))
    tokenizer = directory.json("tokenizer_config.json")
    source, target = (tokenizer.get(name) for name in ("src_lang", "tgt_lang"))
    generation = directory.json(GENERATION) or directory.config
    for index in (generation.get("forced_bos_token_id"), directory.config.get("decoder_start_token_id")):
        forced = tokens.of_symbol(symbols.get(index, "")) if isinstance(index, int) else None
        target = forced if forced in languages else target
    others = [language for language in languages if language not in (source, target)] or languages
    if source not in languages or source == target:
        source = tokens.usual_source if tokens.usual_source in others else others[0]
        others = [language for language in others if language != source] or languages
    return source, target if target in languages else others[-1]


def write_fairseq(model: Model, options: List[str], out: Path) -> None:
    """Writes checkpoint, dictionaries, options of ``fairseq-generate`` and tokenizer, and keeps the original's files.

    Args:
        options: lines of ``generate.args``.
    """
    checkpoint = Checkpoint({"args": model.settings, "model": model.weights}, str(model.path))
    save_checkpoint(strip(checkpoint, None), out / MODEL)
    dictionary = model.vocabulary.dictionary_text(with_added=False).encode("utf-8")
    languages = (getattr(model.settings, "source_lang", None), getattr(model.settings, "target_lang", None))
    for name in (DICTIONARY, *(f"dict.{language}.txt" for language in languages if language)):
        (out / name).write_bytes(dictionary)
    if model.vocabulary.languages:
        lines = "".join(f"{name}\n" for name in model.vocabulary.languages)
        (out / LANGUAGES).write_text(lines, encoding="utf-8")
    (out / OPTIONS).write_text("".join(f"{line}\n" for line in options), encoding="utf-8")
    model.tokenizer.write(out)
    (out / ORIGINALS).mkdir()
    for name in (CONFIG, GENERATION, *TOKENIZER_FILES):
        if model.original is not None and model.original.has(name):
            shutil.copyfile(model.original.path / name, out / ORIGINALS / name)


def _generate_options(model: Model) -> Tuple[List[str], List[str]]:
    """Makes the lines of ``generate.args``, and notes on what they can't express."""
    family, tokenizer = model.family, model.tokenizer
    # With another multiple fairseq 0.12.3 leaves out up to seven sentences.
    lines = [f"--user-dir {_user_dir()}", f"--task el_{family.task}", "--required-batch-size-multiple 1"]
    if family.languages:
        lines.append(f"--langs {','.join(model.vocabulary.languages)}")
        if family is not MBART25:
            lines.extend([f"--lang-tok-style {family.languages.style}", "--encoder-langtok src", "--decoder-langtok"])
    elif family.decoder_only:
        lines.append("--sample-break-mode eos")
        if not tokenizer.before:
            lines.append("--el-plain-prompts")
    else:
        lines.extend(["--source-lang source", "--target-lang target"])
        if tokenizer.template:
            lines.append(f"--el-source-template {tokenizer.template}")
    options, notes = fairseq_options(model.generation, family, model.vocabulary, model.sizes.positions)
    config: Dict[str, Any] = {} if model.original is None else model.original.config
    if config.get("task_specific_params"):
        names = ", ".join(config["task_specific_params"])
        notes.append(f"task_specific_params of config.json are not used: {names}")
    return [*lines, *options], notes


def _usage(model: Model) -> List[str]:
    """Makes the commands from raw text to text, with {out} for the directory."""
    family = model.family
    source, target = (getattr(model.settings, f"{side}_lang", side) or side for side in ("source", "target"))
    options = f"--path {{out}}/{MODEL} $(cat {{out}}/{OPTIONS})"
    if family.languages:
        options += f" --source-lang {source} --target-lang {target}"
        if family is not MBART25:
            options += f" --lang-pairs {source}-{target}"
    if DESCRIPTION in model.tokenizer.files:
        options += f" --bpe el_pieces --el-pieces {{out}}/{DESCRIPTION}"
    dictionary = f"{{out}}/{DICTIONARY}"
    encode = "fairseq-el encode {out} < test.txt > "
    if family.decoder_only:
        commands = [
            f"{encode}test.pieces",
            f"fairseq-preprocess --only-source --testpref test.pieces --srcdict {dictionary} --destdir DATA",
        ]
    else:
        commands = [
            f"{encode}test.{source}",
            f"cp test.{source} test.{target}",
            f"fairseq-preprocess --source-lang {source} --target-lang {target} --testpref test --srcdict {dictionary} "
            f"--tgtdict {dictionary} --destdir DATA",
        ]
    interactive = f"fairseq-interactive {{out}} {options} < test.txt"
    return [interactive, *commands, f"fairseq-generate DATA {options}"]


def _user_dir() -> str:
    """Returns this package's name if it is installed beside fairseq, and else its path, for ``--user-dir``."""
    package = Path(fairseq_el.__path__[0])
    return package.name if package.parent == Path(fairseq.__file__).parent.parent else str(package)


def _family_notes(model: Model) -> List[str]:
    settings = model.settings
    notes = []
    if settings.arch.startswith(PREFIX):
        why = "a bias of the output projection" if getattr(settings, "output_bias", False) else settings.activation_fn
        notes.append(
            f"the architecture is {settings.arch}, because fairseq's own does not have {why}: it needs --user-dir"
        )
    if model.family.languages:
        notes.append("name other languages with --source-lang, --target-lang and --lang-pairs SOURCE-TARGET")
    return notes
