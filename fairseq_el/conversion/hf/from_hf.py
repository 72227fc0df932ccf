"""A Hugging Face model as a directory that fairseq's programs run on."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Tuple

from fairseq_el.conversion.checkpoint import save_checkpoint
from fairseq_el.conversion.hf import weights
from fairseq_el.conversion.hf.byte_bpe import encoder_of, merges_text
from fairseq_el.conversion.hf.config import config_problems, fairseq_settings, sizes_of
from fairseq_el.conversion.hf.families import MBART25, ONLY_EL_ACTIVATIONS, Family, Sizes, family_of
from fairseq_el.conversion.hf.generation import fairseq_options, generation_settings
from fairseq_el.conversion.hf.reading import CONFIG, GENERATION, HFDirectory
from fairseq_el.conversion.hf.report import Report
from fairseq_el.conversion.hf.tokens import SENTENCEPIECE, TOKENIZER_FILES
from fairseq_el.conversion.hf.vocabulary import EOS, Vocabulary, read_counts, read_vocabulary
from fairseq_el.errors import FairseqElError
from fairseq_el.whole_files import refuse_to_overwrite_directory, write_whole_directory

MODEL, OPTIONS, LANGUAGES = "model.pt", "generate.args", "langs.txt"
ORIGINALS = "hf"  # configuration and tokenizer as they were, for the way back
SPM = "sentencepiece.bpe.model"  # where fairseq's hub looks for it
Check = Callable[[Path, Path], float]


@dataclass
class Converted:
    """A model in memory, as fairseq has it."""

    family: Family
    sizes: Sizes
    vocabulary: Vocabulary
    state: Dict[str, Any]

    @property
    def settings(self) -> Any:
        return self.state["args"]


def convert(directory: HFDirectory) -> Converted:
    """The checkpoint of a model.

    Raises:
        FairseqElError: fairseq can't compute the same; all options of ``config.json`` that keep it from that are named.
    """
    tokenizer = directory.json("tokenizer_config.json")
    family = family_of(directory.config, str(tokenizer.get("tokenizer_class")), directory.path / CONFIG)
    problems = config_problems(family, directory.config)
    if problems:
        listed = "\n".join(f"  - {problem}" for problem in problems)
        raise FairseqElError(
            f"{directory.path / CONFIG} has settings with which fairseq can't compute the same as "
            f"{family.name}:\n{listed}\n"
            "Such a model can't be converted; use a checkpoint without them"
        )
    sizes = sizes_of(family, directory.config)
    vocabulary = read_vocabulary(directory, family)
    tensors = weights.check_tensors(directory.tensors(), family, sizes, directory.path)
    model = weights.to_fairseq(tensors, family, sizes, vocabulary)
    biased = "decoder.output_projection.bias" in model
    settings = fairseq_settings(
        family, sizes, vocabulary.start == EOS, biased, biased or sizes.activation in ONLY_EL_ACTIVATIONS,
        _with_pair_at_ends(vocabulary.languages, tokenizer),
    )  # fmt: skip
    if family.languages:
        _restore_order(settings, vocabulary.languages)
    return Converted(family, sizes, vocabulary, _state(settings, model))


def _state(settings: Any, model: Dict[str, Any]) -> Dict[str, Any]:
    """In the form that ``strip`` writes."""
    history = {
        "optimizer_name": "none",
        "criterion_name": "CrossEntropyCriterion",
        "lr_scheduler_state": {},
        "num_updates": 0,
    }
    return {
        "args": settings,
        "model": model,
        "extra_state": {},
        "optimizer_history": [history],
        "last_optimizer_state": None,
    }


def _with_pair_at_ends(languages: List[str], tokenizer: Dict[str, Any]) -> List[str]:
    """The source language first and the target language last, if the tokenizer's files name them."""
    source, target = (tokenizer.get(name) for name in ("src_lang", "tgt_lang"))
    first = [source] if source in languages else []
    last = [target] if target in languages and target != source else []
    return [*first, *(language for language in languages if language not in (*first, *last)), *last]


def _restore_order(settings: Any, languages: List[str]) -> None:
    """The order of the dictionary, which the task goes by."""
    settings.langs = ",".join(languages) if isinstance(settings.langs, str) else list(languages)


def from_hf(source: Path, out: Path, force: bool = False, check: Optional[Check] = None) -> Report:
    """Writes the directory ``out``.

    Args:
        check: compares both directories and returns the largest difference; called before ``out`` has its name.

    Raises:
        OptionError: ``out`` exists, or ``source`` does not.
        FairseqElError: the model can't be read or converted.
    """
    refuse_to_overwrite_directory(out, "--out", force, (MODEL, OPTIONS))
    directory = HFDirectory(source)
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
        if check is not None:
            report.largest_difference = check(source, unfinished)

    write_whole_directory(out, write)
    return report


def _options(directory: HFDirectory, converted: Converted) -> Tuple[List[str], List[str]]:
    settings, family = converted.settings, converted.family
    lines = ["--user-dir fairseq_el"] if settings.arch.startswith("el_") else []
    lines.append(f"--task {family.task}")
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


def _family_notes(converted: Converted) -> List[str]:
    family, settings = converted.family, converted.settings
    notes = []
    if settings.arch.startswith("el_"):
        why = "a bias of the output projection" if getattr(settings, "output_bias", False) else settings.activation_fn
        notes.append(
            f"the architecture is {settings.arch}, because fairseq's own has not {why}: add --user-dir fairseq_el"
        )
    if family is MBART25:
        notes.append(
            "fairseq's translation_from_pretrained_bart goes on after </s> until the target language's symbol, "
            "transformers stops at </s>: hypotheses are the same up to </s>, but beams are ranked by scores with one "
            "more "
            "word, and may differ"
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
        (out / name).write_text(text, encoding="utf-8", newline="\n")
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
        (out / "vocab.bpe").write_text(merges_text(merges), encoding="utf-8", newline="\n")
        return " --bpe gpt2 --gpt2-encoder-json {out}/encoder.json --gpt2-vocab-bpe {out}/vocab.bpe"
    for name in ("source.spm", *SENTENCEPIECE.values()):
        if directory.has(name):
            shutil.copyfile(directory.path / name, out / SPM)
            return f" --bpe sentencepiece --sentencepiece-model {{out}}/{SPM}"
    return ""
