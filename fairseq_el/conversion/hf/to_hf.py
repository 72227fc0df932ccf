"""Converts a fairseq checkpoint to a directory for Hugging Face's ``from_pretrained``."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path
from typing import Optional

from fairseq_el.conversion.hf.fairseq_checkpoint import read_fairseq
from fairseq_el.conversion.hf.hf_directory import CONFIG, GENERATION, SAFE, json_text, safetensors_torch
from fairseq_el.conversion.hf.logits import compare_logits
from fairseq_el.conversion.hf.model import ConversionSummary, Model
from fairseq_el.conversion.hf.model_config import config_of
from fairseq_el.conversion.hf.tokenizer_files import DICTIONARY, MODEL
from fairseq_el.conversion.hf.weights import Weights, hf_tensors
from fairseq_el.files import refuse_to_overwrite_directory, write_whole_directory

_BY = "fairseq-el convert to-hf"


def to_hf(
    path: Path,
    out: Path,
    data: Optional[Path] = None,
    force: bool = False,
    verify: bool = False,
    begin: bool = False,
) -> ConversionSummary:
    """Writes the directory ``out``.

    Args:
        path: of a checkpoint, or of a directory with ``model.pt``.
        data: directory of the dictionary (default: that of the checkpoint).
        verify: compare logits of both programs before ``out`` appears.
        begin: sources and outputs of a BART model begin with ``<s>``, as fairseq's hub has them.

    Raises:
        OptionError: ``out`` exists and may not be replaced, or the checkpoint or its dictionary does not exist.
        FairseqElError: Hugging Face has no such model, it can't be read, or logits differ.
    """
    refuse_to_overwrite_directory(out, "--out", force, _BY, [path, path / MODEL, data])
    safetensors_torch()  # fails at once where it is not installed
    model = read_fairseq(path, data, begin)
    tensors = hf_tensors(model.weights, model.family, model.sizes, model.vocabulary)
    arch, symbols = model.settings.arch, len(model.vocabulary.symbols)
    usage = [f"transformers.{model.family.architecture}.from_pretrained({{out}})"]
    summary = ConversionSummary(model.family.name, arch, len(tensors), symbols, model.notes, usage)

    def write(unfinished: Path) -> None:
        write_hf(model, tensors, unfinished)
        if verify:
            summary.largest_difference = compare_logits(unfinished, model.path)

    write_whole_directory(out, write, _BY, replace=force)
    return summary


def write_hf(model: Model, tensors: Weights, out: Path) -> None:
    """Writes weights, configuration, generation settings, dictionary and tokenizer.

    Args:
        tensors: the model's, by Hugging Face's names.

    Raises:
        OSError: a file can't be written.
    """
    _save_tensors(tensors, out / SAFE)
    config = config_of(model.family, model.sizes)
    if model.original is None:
        config["vocab_size"] = len(model.vocabulary.symbols)
        config.update(model.vocabulary.hf_special_ids(model.family))
        (out / GENERATION).write_text(json_text(model.generation), encoding="utf-8")
    else:
        original = model.original.json(CONFIG)
        config = {**original, **config, "vocab_size": original["vocab_size"]}
        if model.original.has(GENERATION):
            shutil.copyfile(model.original.path / GENERATION, out / GENERATION)
    (out / CONFIG).write_text(json_text(config), encoding="utf-8")
    (out / SAFE).chmod((out / CONFIG).stat().st_mode)  # safetensors' own is for the owner alone
    (out / DICTIONARY).write_bytes(model.vocabulary.dictionary_text(with_added=True).encode("utf-8"))
    model.tokenizer.write(out)


def _save_tensors(tensors: Weights, path: Path) -> None:
    """Writes safetensors. An error of the disk, which safetensors gives a class of its own, becomes an OSError.

    Raises:
        OSError: the file can't be written.
    """
    contiguous = {name: tensor.contiguous() for name, tensor in tensors.items()}
    try:
        safetensors_torch().save_file(contiguous, str(path), {"format": "pt"})
    except OSError:
        raise
    except Exception as error:
        code = re.search(r"os error (\d+)", str(error))
        if code is None:
            raise
        raise OSError(int(code[1]), os.strerror(int(code[1])), str(path)) from error
