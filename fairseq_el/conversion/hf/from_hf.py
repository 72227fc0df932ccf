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
from fairseq_el.conversion.hf.tokens import SENTENCEPIECE, TOKENIZER_FILES
from fairseq_el.conversion.hf.verify import compare_logits
from fairseq_el.conversion.hf.vocabulary import read_counts
from fairseq_el.conversion.relabel import PREFIX
from fairseq_el.outputs import refuse_to_overwrite_directory
from fairseq_el.whole_files import write_whole_directory

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
    lines, notes = _options(directory, converted)
    settings, vocabulary = converted.settings, converted.vocabulary
    report = Report(converted.family.name, settings.arch, len(converted.state["model"]), len(vocabulary.symbols))
    report.notes = [*vocabulary.notes, *notes, *_family_notes(converted)]

    def write(unfinished: Path) -> None:
        save_checkpoint(converted.state, unfinished / MODEL)
        _write_dictionaries(unfinished, converted, read_counts(source, vocabulary))
        (unfinished / OPTIONS).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        report.usage = [f"fairseq-generate DATA --path {{out}}/{MODEL} $(cat {{out}}/{OPTIONS})"]
        report.usage[0] += _write_tokenizer(directory, unfinished, converted)
        if verify:
            report.largest_difference = compare_logits(source, unfinished)

    write_whole_directory(out, write, _BY, replace=force)
    return report


def _options(directory: HFDirectory, converted: Converted) -> Tuple[List[str], List[str]]:
    family = converted.family
    # fairseq 0.12.3 leaves out up to seven sentences otherwise.
    lines = [f"--user-dir {_user_dir()}", f"--task {family.task}", "--required-batch-size-multiple 1"]
    if family.languages:
        languages = ",".join(converted.vocabulary.languages)
        lines.append(f"--langs {languages}")
        if family is not MBART25:
            lines.extend(["--lang-tok-style mbart", "--encoder-langtok src", "--decoder-langtok"])
    elif not family.decoder_only:
        lines.extend(["--source-lang source", "--target-lang target"])
    found = generation_settings(directory.config, directory.json(GENERATION))
    options, notes = fairseq_options(found, directory.config.get("pad_token_id"), family.decoder_only)
    if directory.config.get("task_specific_params"):
        names = ", ".join(directory.config["task_specific_params"])
        notes.append(f"task_specific_params of config.json are not used: {names}")
    return [*lines, *options], notes


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
    if family is MBART25:
        notes.append(
            "fairseq's translation_from_pretrained_bart goes on after </s> until the target language's symbol, "
            "transformers stops at </s>: hypotheses are the same up to </s>, but beams are ranked by scores with one "
            "more word, and may differ"
        )
    if family.decoder_only:
        notes.append("prompts must begin with <|endoftext|>, which fairseq's language_modeling task puts before them")
    if family.sinusoidal and not family.pre_norm:
        notes.append(
            "MarianTokenizer's normalisation of punctuation and its >>language<< words are not in fairseq's --bpe"
        )
    if family.languages:
        notes.append("name the languages with --source-lang, --target-lang and --lang-pairs SOURCE-TARGET")
    return notes


def _write_dictionaries(out: Path, converted: Converted, counts: Dict[str, int]) -> None:
    settings, vocabulary = converted.settings, converted.vocabulary
    text = vocabulary.lines(counts)
    languages = (getattr(settings, "source_lang", None), getattr(settings, "target_lang", None))
    for name in ("dict.txt", *(f"dict.{language}.txt" for language in languages if language)):
        (out / name).write_bytes(text.encode("utf-8"))
    if vocabulary.languages:
        (out / LANGUAGES).write_text("".join(f"{name}\n" for name in vocabulary.languages), encoding="utf-8")


def _write_tokenizer(directory: HFDirectory, out: Path, converted: Converted) -> str:
    """Copies the tokenizer, and returns the options that name it."""
    (out / ORIGINALS).mkdir()
    for name in (CONFIG, GENERATION, *TOKENIZER_FILES):
        if directory.has(name):
            shutil.copyfile(directory.path / name, out / ORIGINALS / name)
    merges = converted.vocabulary.merges
    if merges is not None:
        (out / "encoder.json").write_text(json.dumps(encoder_of(merges)), encoding="utf-8")
        (out / "vocab.bpe").write_bytes(merges_text(merges).encode("utf-8"))
        return " --bpe gpt2 --gpt2-encoder-json {out}/encoder.json --gpt2-vocab-bpe {out}/vocab.bpe"
    for name in ("source.spm", *SENTENCEPIECE.values()):
        if directory.has(name):
            shutil.copyfile(directory.path / name, out / SPM)
            return f" --bpe sentencepiece --sentencepiece-model {{out}}/{SPM}"
    return ""
