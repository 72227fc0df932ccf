"""A fairseq checkpoint as a directory for Hugging Face's ``from_pretrained``."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path
from typing import Any, Dict, List, Optional

from fairseq_el.conversion.hf import weights
from fairseq_el.conversion.hf.byte_bpe import read_merges
from fairseq_el.conversion.hf.config import config_of, config_problems
from fairseq_el.conversion.hf.converted import MODEL, OPTIONS, ORIGINALS, SPM
from fairseq_el.conversion.hf.families import BART, GPT2, MARIAN, MBART25, MBART50, Family
from fairseq_el.conversion.hf.generation import hf_settings
from fairseq_el.conversion.hf.reading import CONFIG, GENERATION, SAFE, HFDirectory, safetensors_torch
from fairseq_el.conversion.hf.report import Report
from fairseq_el.conversion.hf.source import Source, read_source
from fairseq_el.conversion.hf.tokens import DICTIONARY, SENTENCEPIECE, TOKENIZER_FILES
from fairseq_el.conversion.hf.verify import compare_logits
from fairseq_el.conversion.hf.vocabulary import BOS, EOS, PAD, Vocabulary, read_vocabulary
from fairseq_el.errors import FairseqElError, OptionError, shortened
from fairseq_el.files import read_json, read_text, refuse_to_overwrite_directory, write_whole_directory

_BY = "fairseq-el convert to-hf"
_TEMPLATE = "--el-source-template"
_SPM_NAMES = (SPM, "spm.model", "sentencepiece.model")


def to_hf(
    path: Path,
    out: Path,
    data: Optional[Path] = None,
    force: bool = False,
    verify: bool = False,
    begin: bool = False,
) -> Report:
    """Writes the directory ``out``.

    Args:
        path: of a checkpoint, or of a directory with ``model.pt``.
        data: directory of the dictionary (default: that of the checkpoint).
        verify: compare logits before ``out`` has its name.
        begin: sources and outputs of a BART model begin with ``<s>``, as fairseq's hub has them.

    Raises:
        OptionError: ``out`` exists, or is not to be replaced, or the checkpoint or its dictionary does not.
        FairseqElError: Hugging Face has no such model, it can't be read, or logits differ.
    """
    refuse_to_overwrite_directory(out, "--out", force, _BY, [path, path / MODEL, data])
    save_file = safetensors_torch().save_file
    source = read_source(path, data)
    originals = source.directory / ORIGINALS
    begin = _begins(source, originals, begin)
    vocabulary = _vocabulary(source, originals)
    tensors = weights.to_hf(source.weights, source.family, source.sizes, vocabulary)
    report = Report(source.family.name, source.settings.arch, len(tensors), len(vocabulary.symbols))
    report.usage = [f"transformers.{source.family.architecture}.from_pretrained({{out}})"]

    def write(unfinished: Path) -> None:
        _save_tensors(save_file, tensors, unfinished / SAFE)
        _write_json(unfinished / CONFIG, _config(source, vocabulary, originals))
        (unfinished / SAFE).chmod((unfinished / CONFIG).stat().st_mode)  # safetensors' own is for the owner alone
        report.notes.extend(_write_generation(unfinished, source, vocabulary, originals, begin))
        report.notes.extend(_write_tokenizer(unfinished, source, vocabulary, originals, begin))
        if verify:
            report.largest_difference = compare_logits(unfinished, source.path)

    write_whole_directory(out, write, _BY, replace=force)
    return report


def _save_tensors(save_file: Any, tensors: weights.Weights, path: Path) -> None:
    """As safetensors, whose errors about the disk are of a class of its own.

    Raises:
        OSError: the file can't be written.
    """
    try:
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, str(path), {"format": "pt"})
    except OSError:
        raise
    except Exception as error:
        code = re.search(r"os error (\d+)", str(error))
        if code is None:
            raise
        raise OSError(int(code[1]), os.strerror(int(code[1])), str(path)) from error


def _vocabulary(source: Source, originals: Path) -> Vocabulary:
    """Ids as Hugging Face's model had them, if the checkpoint was made of one; else fairseq's."""
    symbols = list(source.words.symbols)
    if (originals / CONFIG).is_file():
        directory = HFDirectory(originals)
        problems = config_problems(source.family, directory.config)
        if problems:
            raise FairseqElError(f"{originals / CONFIG} must be the model's own: {'; '.join(problems)}. Copy it again")
        vocabulary = (
            read_vocabulary(directory, source.family) if directory.config["vocab_size"] <= len(symbols) else None
        )
        if vocabulary is None or vocabulary.symbols != symbols:
            raise FairseqElError(
                f"the dictionary in {source.directory} must have the symbols of the tokenizer in {originals}, because "
                f"both came from one model; they differ. Remove {originals} to convert with the dictionary's own ids"
            )
        return vocabulary
    languages = [symbol[1:-1] for symbol in symbols if symbol.startswith("[")] if source.family.languages else []
    return Vocabulary(symbols, list(range(len(symbols))), EOS, languages)


def _ids(vocabulary: Vocabulary, family: Family) -> Dict[str, Any]:
    """Ids of special tokens for ``config.json`` and ``generation_config.json``."""
    bos = vocabulary.ids[EOS if family.decoder_only or vocabulary.ids[BOS] is None else BOS]
    ids = {"bos_token_id": bos, "pad_token_id": vocabulary.ids[PAD], "eos_token_id": vocabulary.ids[EOS]}
    if not family.decoder_only and family is not MBART25:
        ids["decoder_start_token_id"] = vocabulary.ids[vocabulary.start]
    return ids


def _config(source: Source, vocabulary: Vocabulary, originals: Path) -> Dict[str, Any]:
    mine = config_of(source.family, source.sizes)
    if not (originals / CONFIG).is_file():
        mine["vocab_size"] = len(vocabulary.symbols)
        return {**mine, **_ids(vocabulary, source.family)}
    original = read_json(originals / CONFIG)
    mine["vocab_size"] = original["vocab_size"]
    return {**original, **mine}


def _begins(source: Source, originals: Path, begin: bool) -> bool:
    """Whether sources begin with ``<s>``: by the option, or by the ``generate.args`` of a directory of from-hf."""
    if begin and (source.family is not BART or (originals / CONFIG).is_file()):
        raise OptionError(
            "--begin is for BART models of fairseq's own: others have no <s> before their sources, and those that came "
            "from Hugging Face have their tokenizer as it was; leave it out"
        )
    templates = {line.partition(" ")[2] for line in _lines(source) if line.startswith(_TEMPLATE)}
    known = f"{BOS},X,{EOS}"
    if not templates <= {known} and not (originals / CONFIG).is_file():
        raise FairseqElError(
            f"{_TEMPLATE} in {OPTIONS} must be {known}, as BART's tokenizer has it, or not be there; it is "
            f"{shortened(', '.join(sorted(templates)))}"
        )
    return begin or known in templates


def _lines(source: Source) -> List[str]:
    """Of ``generate.args``, if there is one."""
    path = source.directory / OPTIONS
    return read_text(path, f"{OPTIONS} must be text").split("\n") if os.path.lexists(path) else []


def _write_generation(out: Path, source: Source, vocabulary: Vocabulary, originals: Path, begin: bool) -> List[str]:
    """The settings with which ``generate()`` writes what fairseq writes, and notes on what it does otherwise."""
    if (originals / CONFIG).is_file():
        if (originals / GENERATION).is_file():
            shutil.copyfile(originals / GENERATION, out / GENERATION)
        return []
    lines, ids = _lines(source), _ids(vocabulary, source.family)
    found = hf_settings(lines, ids["eos_token_id"], ids["pad_token_id"], source.sizes.positions)
    language = f"[{getattr(source.settings, 'target_lang', None)}]"
    if source.family is MBART50 and language in vocabulary.symbols:
        found["forced_bos_token_id"] = vocabulary.ids[vocabulary.symbols.index(language)]
    elif begin and not lines:  # as the hub forces it
        found["forced_bos_token_id"] = vocabulary.ids[BOS]
    if source.family is MBART25 and language in vocabulary.symbols:
        ids["decoder_start_token_id"] = vocabulary.ids[vocabulary.symbols.index(language)]
    _write_json(out / GENERATION, {**ids, **found})
    notes = []
    if "--el-search transformers" not in lines:
        notes.append(
            f"{GENERATION} has fairseq-generate's {'options of ' + OPTIONS if lines else 'own defaults'}; outputs that "
            "are as long as they may be can be ranked otherwise, because fairseq counts their last eos, or forced "
            "first words"
        )
        if source.family.decoder_only and found["num_beams"] > 1:
            notes.append("fairseq's scores count the prompt and its length: with length_penalty 0 both programs agree")
    return notes


def _write_tokenizer(out: Path, source: Source, vocabulary: Vocabulary, originals: Path, begin: bool) -> List[str]:
    """What is known of the tokenizer, and notes on what is not."""
    words = source.words
    pairs = zip(words.symbols[words.nspecial :], words.count[words.nspecial :])
    lines = [f"{symbol} {count}\n" for symbol, count in pairs]
    (out / DICTIONARY).write_bytes("".join(lines).encode("utf-8"))
    copied = [name for name in TOKENIZER_FILES if (originals / name).is_file()]
    for name in copied:
        shutil.copyfile(originals / name, out / name)
    if copied:
        return []
    if source.family.byte_bpe and os.path.lexists(source.directory / "vocab.bpe"):
        return _write_byte_bpe(out, source, vocabulary, begin)
    return _write_sentencepiece(out, source, vocabulary, begin)


def _write_byte_bpe(out: Path, source: Source, vocabulary: Vocabulary, begin: bool) -> List[str]:
    path = source.directory / "vocab.bpe"
    text = read_text(path, f"{path.name} must be GPT-2's merges")
    try:
        read_merges(text.split("\n"))
    except ValueError as error:
        raise FairseqElError(f"{path} must be GPT-2's merges, pairs of symbols; {error}. Copy it again") from error
    encoder = read_json(source.directory / "encoder.json")
    tokens = {str(index): token for token, index in encoder.items()}
    named = {tokens.get(symbol, symbol): index for index, symbol in enumerate(vocabulary.symbols)}
    _write_json(out / "vocab.json", named)
    (out / "merges.txt").write_bytes(text.encode("utf-8"))
    special: Dict[str, Any] = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
    if "<mask>" in named and not source.family.decoder_only:
        special["mask_token"] = "<mask>"
    if not begin:  # BartTokenizer would put <s> before a text
        special["tokenizer_class"] = GPT2.tokenizer
        special["add_bos_token"], special["add_eos_token"] = source.family.decoder_only, not source.family.decoder_only
    if source.family.decoder_only:  # fairseq's prompts begin with the eos
        special["bos_token"] = "</s>"
    _write_json(out / "tokenizer_config.json", {"tokenizer_class": source.family.tokenizer, **special})
    if source.family is not BART:
        return []
    fed = "<s> X </s>, as fairseq's hub feeds a text X" if begin else "X </s>, as fairseq-generate feeds a text X"
    return [f"the tokenizer gives {fed}" + ("" if begin else "; for a model that reads <s> X </s>, give --begin")]


def _write_sentencepiece(out: Path, source: Source, vocabulary: Vocabulary, begin: bool) -> List[str]:
    family = source.family
    model = next((source.directory / name for name in _SPM_NAMES if (source.directory / name).is_file()), None)
    if model is None or family.decoder_only or begin:
        return [
            f"the tokenizer is not known, so none was written; {DICTIONARY} has the tokens in the order of their ids, "
            "from 4 on, after <s> <pad> </s> <unk>"
        ]
    if family.languages:
        shutil.copyfile(model, out / SENTENCEPIECE[family.model_type])
        _write_json(out / "tokenizer_config.json", {"tokenizer_class": family.tokenizer})
        return [f"check that {family.tokenizer} gives the ids of {DICTIONARY}: it has an order of its own"]
    # Marian's is the one that looks pieces up in a dictionary, as fairseq does, and gives X </s>.
    _write_json(out / "vocab.json", {symbol: index for index, symbol in enumerate(vocabulary.symbols)})
    for name in ("source.spm", "target.spm"):
        shutil.copyfile(model, out / name)
    _write_json(out / "tokenizer_config.json", {"tokenizer_class": MARIAN.tokenizer})
    return [f"{MARIAN.tokenizer} normalises punctuation where the package sacremoses is installed; fairseq does not"]


def _write_json(path: Path, content: Dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
