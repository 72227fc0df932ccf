"""A Hugging Face model as a directory that fairseq's programs run on."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Dict, List, Tuple

import fairseq

import fairseq_el
from fairseq_el.conversion.checkpoint import save_checkpoint
from fairseq_el.conversion.hf.byte_bpe import encoder_of, merges_text
from fairseq_el.conversion.hf.converted import LANGUAGES, MODEL, OPTIONS, ORIGINALS, SPM, Converted, convert
from fairseq_el.conversion.hf.families import MBART25
from fairseq_el.conversion.hf.generation import fairseq_options, generation_settings
from fairseq_el.conversion.hf.reading import CONFIG, GENERATION, HFDirectory
from fairseq_el.conversion.hf.report import Report
from fairseq_el.conversion.hf.tokenizer import Tokenizer, read_tokenizer, written
from fairseq_el.conversion.hf.tokens import DICTIONARY, TOKENIZER_FILES
from fairseq_el.conversion.hf.verify import compare_logits
from fairseq_el.conversion.hf.vocabulary import read_counts
from fairseq_el.conversion.relabel import PREFIX
from fairseq_el.files import refuse_to_overwrite_directory, write_whole_directory
from fairseq_el.tokenization import DESCRIPTION

_BY = "fairseq-el convert from-hf"


def from_hf(source: Path, out: Path, force: bool = False, verify: bool = False) -> Report:
    """Writes the directory ``out``.

    Args:
        verify: compare logits before ``out`` has its name.

    Raises:
        OptionError: ``out`` exists, or is not to be replaced, or ``source`` does not exist.
        FairseqElError: the model can't be read or converted, or logits differ.
    """
    directory = HFDirectory(source)
    refuse_to_overwrite_directory(out, "--out", force, _BY, [source, *source.iterdir()])
    converted = convert(directory)
    settings, vocabulary = converted.settings, converted.vocabulary
    tokenizer = read_tokenizer(directory, converted.family, vocabulary, SPM)
    lines, notes = _options(directory, converted, tokenizer)
    report = Report(converted.family.name, settings.arch, len(converted.state["model"]), len(vocabulary.symbols))
    report.notes = [*vocabulary.notes, *tokenizer.notes, *notes, *_family_notes(converted)]
    report.usage = _usage(directory, converted, tokenizer)

    def write(unfinished: Path) -> None:
        save_checkpoint(converted.state, unfinished / MODEL)
        _write_dictionaries(unfinished, converted, read_counts(source, vocabulary))
        (unfinished / OPTIONS).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        _write_tokenizer(directory, unfinished, converted, tokenizer)
        if verify:
            report.largest_difference = compare_logits(source, unfinished)

    write_whole_directory(out, write, _BY, replace=force)
    return report


def _options(directory: HFDirectory, converted: Converted, tokenizer: Tokenizer) -> Tuple[List[str], List[str]]:
    family = converted.family
    # fairseq 0.12.3 leaves out up to seven sentences otherwise.
    lines = [f"--user-dir {_user_dir()}", f"--task el_{family.task}", "--required-batch-size-multiple 1"]
    if family.languages:
        languages = ",".join(converted.vocabulary.languages)
        lines.append(f"--langs {languages}")
        if family is not MBART25:
            lines.extend(["--lang-tok-style mbart", "--encoder-langtok src", "--decoder-langtok"])
    elif family.decoder_only:
        lines.append("--sample-break-mode eos")
        if not tokenizer.before:
            lines.append("--el-plain-prompts")
    else:
        lines.extend(["--source-lang source", "--target-lang target"])
        if tokenizer.template:
            lines.append(f"--el-source-template {tokenizer.template}")
    found = generation_settings(directory.config, directory.json(GENERATION))
    options, notes = fairseq_options(found, family, converted.vocabulary, converted.sizes.positions)
    if directory.config.get("task_specific_params"):
        names = ", ".join(directory.config["task_specific_params"])
        notes.append(f"task_specific_params of config.json are not used: {names}")
    return [*lines, *options], notes


def _usage(directory: HFDirectory, converted: Converted, tokenizer: Tokenizer) -> List[str]:
    """Commands from raw text to text, with {out} for the directory."""
    family, settings = converted.family, converted.settings
    bpe = f" --bpe el_pieces --el-pieces {{out}}/{DESCRIPTION}" if tokenizer.described is not None else ""
    source, target = (getattr(settings, f"{side}_lang", side) or side for side in ("source", "target"))
    options = f"--path {{out}}/{MODEL} $(cat {{out}}/{OPTIONS})"
    if family.languages:
        options += f" --source-lang {source} --target-lang {target}"
        if family is not MBART25:
            options += f" --lang-pairs {source}-{target}"
    options += bpe
    dictionary = f"{{out}}/{DICTIONARY}"
    encode = "fairseq-el encode {out} < test.txt > "
    if family.decoder_only:
        commands = [f"{encode}test.pieces"]
        commands.append(
            f"fairseq-preprocess --only-source --testpref test.pieces --srcdict {dictionary} --destdir DATA"
        )
    else:
        commands = [f"{encode}test.{source}", f"cp test.{source} test.{target}"]
        commands.append(
            f"fairseq-preprocess --source-lang {source} --target-lang {target} --testpref test --srcdict {dictionary} "
            f"--tgtdict {dictionary} --destdir DATA"
        )
    interactive = f"fairseq-interactive {{out}} {options} < test.txt"
    return [interactive, *commands, f"fairseq-generate DATA {options}"]


def _user_dir() -> str:
    """What ``--user-dir`` finds from every directory: this package's name if it is beside fairseq, else its path."""
    package = Path(fairseq_el.__path__[0])
    return package.name if package.parent == Path(fairseq.__file__).parent.parent else str(package)


def _family_notes(converted: Converted) -> List[str]:
    family, settings = converted.family, converted.settings
    notes = []
    if settings.arch.startswith(PREFIX):
        why = "a bias of the output projection" if getattr(settings, "output_bias", False) else settings.activation_fn
        notes.append(f"the architecture is {settings.arch}, because fairseq's own has not {why}: it needs --user-dir")
    if family.languages:
        notes.append("name other languages with --source-lang, --target-lang and --lang-pairs SOURCE-TARGET")
    return notes


def _write_dictionaries(out: Path, converted: Converted, counts: Dict[str, int]) -> None:
    settings, vocabulary = converted.settings, converted.vocabulary
    text = vocabulary.lines(counts)
    languages = (getattr(settings, "source_lang", None), getattr(settings, "target_lang", None))
    for name in ("dict.txt", *(f"dict.{language}.txt" for language in languages if language)):
        (out / name).write_bytes(text.encode("utf-8"))
    if vocabulary.languages:
        (out / LANGUAGES).write_text("".join(f"{name}\n" for name in vocabulary.languages), encoding="utf-8")


def _write_tokenizer(directory: HFDirectory, out: Path, converted: Converted, tokenizer: Tokenizer) -> None:
    (out / ORIGINALS).mkdir()
    for name in (CONFIG, GENERATION, *TOKENIZER_FILES):
        if directory.has(name):
            shutil.copyfile(directory.path / name, out / ORIGINALS / name)
    merges = converted.vocabulary.merges
    if merges is not None:
        (out / "encoder.json").write_text(json.dumps(encoder_of(merges)), encoding="utf-8")
        (out / "vocab.bpe").write_bytes(merges_text(merges).encode("utf-8"))
    for name, copy in tokenizer.copies:
        shutil.copyfile(directory.path / name, out / copy)
    if tokenizer.described is not None:
        (out / DESCRIPTION).write_text(written(tokenizer.described), encoding="utf-8")
