"""Data of speech as fairseq reads them: a YAML file, a dictionary, manifests and features, all checked before use.

DATA has the YAML file of ``--config-yaml``, the dictionary that it names, and ``SPLIT.tsv`` with a line for each
sentence: where its features are, how many frames they have, and its text.
"""

from __future__ import annotations

import csv
from itertools import islice
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional

import yaml
from fairseq.data import BaseWrapperDataset, Dictionary
from fairseq.data.audio.speech_to_text_dataset import SpeechToTextDataset

from fairseq_el.errors import (
    FairseqElError,
    OptionError,
    is_out_of_memory,
    raise_problems,
    shortened,
    summary_of,
)

_MOST_PROBLEMS = 10  # of a manifest in one message
_COLUMNS = ("id", "audio", "n_frames", "tgt_text")
_KINDS = {
    "a number above 0": lambda value: isinstance(value, int) and not isinstance(value, bool) and value > 0,
    "true or false": lambda value: isinstance(value, bool),
    "the name of a file": lambda value: isinstance(value, str),
    "a text": lambda value: isinstance(value, str),
    "settings of their own": lambda value: isinstance(value, dict),
}
_SETTINGS = {  # what fairseq reads of the file, and what it must be
    "input_feat_per_channel": "a number above 0",
    "input_channels": "a number above 0",
    "vocab_filename": "the name of a file",
    "speaker_set_filename": "the name of a file",
    "audio_root": "a text",
    "eos_token": "a text",
    "prepend_tgt_lang_tag": "true or false",
    "prepend_bos_and_append_tgt_lang_tag": "true or false",
    "use_audio_input": "true or false",
    "pre_tokenizer": "settings of their own",
    "bpe_tokenizer": "settings of their own",
    "global_cmvn": "settings of their own",
    **{f"{kind}transforms": "settings of their own" for kind in ("", "feature_", "waveform_", "dataset_")},
}
_MAY_BE_NULL = ("speaker_set_filename", "eos_token")


def read_config(data: str, config_yaml: str) -> Dict[str, Any]:
    """The settings of ``--config-yaml``, whose dictionary and speakers can be read.

    Args:
        data: DATA.
        config_yaml: a path in it, or an absolute one.

    Raises:
        OptionError: DATA or the file can't be used; every problem of the settings is named.
    """
    if not Path(data).is_dir():
        raise OptionError(
            f"DATA must be a directory with a YAML file, a dictionary and manifests; there is no directory {data}"
        )
    path = Path(data) / config_yaml
    if not path.is_file():
        raise OptionError(
            f"--config-yaml must name a YAML file in DATA, which says what features there are; there is no file {path}"
        )
    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeError, yaml.YAMLError, RecursionError) as error:
        raise OptionError(f"--config-yaml must be a YAML file; {path} can't be read: {summary_of(error)}") from error
    if not isinstance(config, dict):
        given = type(config).__name__ if config is not None else "empty"
        raise OptionError(f"--config-yaml must have settings, as vocab_filename: dict.txt; {path} is {given}")
    raise_problems([f"{path}: {problem}" for problem in _setting_problems(Path(data), config)])
    return config


def _setting_problems(data: Path, config: Dict[str, Any]) -> Iterator[str]:
    wrong = {
        name: f"{name} must be {kind}; it is {shortened(repr(config[name]))}"
        for name, kind in _SETTINGS.items()
        if name in config and not (_KINDS[kind](config[name]) or (config[name] is None and name in _MAY_BE_NULL))
    }
    yield from wrong.values()
    if config.get("use_audio_input") is True:
        yield (
            "use_audio_input must be false, because these models read features; it is true. Compute features, as "
            "fairseq's examples/speech_to_text do"
        )
    if config.get("prepend_tgt_lang_tag") is True and config.get("prepend_bos_and_append_tgt_lang_tag") is True:
        yield (
            "prepend_tgt_lang_tag and prepend_bos_and_append_tgt_lang_tag do not go together; both are true. "
            "Set one to false"
        )
    for name, file in {"vocab_filename": "dict.txt", **config}.items():
        if name not in ("vocab_filename", "speaker_set_filename") or name in wrong or file is None:
            continue
        path = data / str(file)
        if not path.is_file():
            yield f"{name} must name a file in DATA; there is no file {path}"
        elif name == "vocab_filename":
            yield from _dictionary_problem(path)


def _dictionary_problem(path: Path) -> Iterator[str]:
    try:
        Dictionary.load(str(path))
    except Exception as error:  # fairseq raises many kinds
        yield f"vocab_filename must name a dictionary of fairseq's; {path} is none: {summary_of(error)}"


def language_tag_problems(config: Dict[str, Any], prefix_size: int, eos_token: Optional[str]) -> List[str]:
    """Finds what a model with language tags needs of the command line.

    Args:
        prefix_size, eos_token: ``--prefix-size`` and ``--eos-token``.
    """
    if config.get("prepend_tgt_lang_tag") and prefix_size != 1:
        return [
            "--prefix-size must be 1, because prepend_tgt_lang_tag of --config-yaml has outputs begin with a language "
            f"tag; it is {prefix_size}"
        ]
    if config.get("prepend_bos_and_append_tgt_lang_tag") and not (eos_token or config.get("eos_token")):
        return [
            "--eos-token must name the language tag that ends outputs, because prepend_bos_and_append_tgt_lang_tag of "
            "--config-yaml is true; it is not given"
        ]
    return []


def check_manifest(data: str, split: str, config: Dict[str, Any], words: Dictionary) -> None:
    """Checks the manifest of a split.

    Raises:
        OptionError: DATA has no such split.
        FairseqElError: the manifest can't be used; its first problems are named.
    """
    path = Path(data) / f"{split}.tsv"
    if not path.is_file():
        known = sorted(other.stem for other in Path(data).glob("*.tsv")) or ["no manifest at all"]
        raise OptionError(
            f"--gen-subset must name one split of the data, SPLIT.tsv; it is {split}, and {data} has {', '.join(known)}"
        )
    try:
        with open(path, encoding="utf-8", newline="\n") as lines:
            rows = list(csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE))
    except (OSError, UnicodeError, csv.Error) as error:
        raise FairseqElError(f"The manifest {path} can't be read: {summary_of(error)}") from error
    columns = [*_COLUMNS, *(["tgt_lang"] if _has_tags(config) else [])]
    problems = list(islice(_manifest_problems(rows, columns, config, words), _MOST_PROBLEMS))
    if problems:
        listed = f" {problems[0]}" if len(problems) == 1 else "".join(f"\n  - {problem}" for problem in problems)
        raise FairseqElError(f"The manifest {path} can't be used:{listed}")


def _has_tags(config: Dict[str, Any]) -> bool:
    return bool(config.get("prepend_tgt_lang_tag") or config.get("prepend_bos_and_append_tgt_lang_tag"))


def _manifest_problems(
    rows: List[Dict[str, Any]], columns: List[str], config: Dict[str, Any], words: Dictionary
) -> Iterator[str]:
    if not rows:
        yield f"it must have a line for each sentence under the names of its columns, {', '.join(columns)}; it has none"
        return
    missing = [name for name in columns if name not in rows[0]]
    if missing:
        yield f"it must have the columns {', '.join(columns)}, with tabs in between; it lacks {', '.join(missing)}"
        return
    for number, row in enumerate(rows, start=2):
        short = [name for name in columns if row[name] is None]
        if short:
            yield f"every line must have all columns; line {number} has no {', '.join(short)}"
        elif not row["n_frames"].isdecimal() or int(row["n_frames"]) < 1:
            yield f"n_frames must be a number above 0; in line {number} it is {shortened(repr(row['n_frames']))}"
        elif _has_tags(config) and SpeechToTextDataset.LANG_TAG_TEMPLATE.format(row["tgt_lang"]) not in words:
            tag = SpeechToTextDataset.LANG_TAG_TEMPLATE.format(row["tgt_lang"])
            yield f"tgt_lang must be a language with a tag in the dictionary; line {number} needs {shortened(tag)}"


class CheckedFeatures(BaseWrapperDataset):
    """Data set of speech whose features are as the settings say, or else an error names the sentence."""

    def __init__(self, dataset: SpeechToTextDataset, width: int):
        """``width``: the numbers that a frame must have."""
        super().__init__(dataset)
        self.width = width

    def __getitem__(self, index: int) -> Any:
        """
        Raises:
            FairseqElError: the features of the sentence can't be read, or have another shape.
        """
        try:
            item = self.dataset[index]
        except Exception as error:  # numpy, zip files and transforms raise many kinds
            if is_out_of_memory(error):
                raise
            raise FairseqElError(f"The features of {self._name(index)} can't be read: {_reason(error)}") from error
        source = (item[0] if isinstance(item, tuple) else item).source
        if source.dim() != 2 or source.size(1) != self.width or source.size(0) == 0:
            shape = " x ".join(map(str, source.shape))
            raise FairseqElError(
                f"Features must have frames of {self.width} numbers, input_feat_per_channel times input_channels of "
                f"--config-yaml; those of {self._name(index)} are {shape} (frames x numbers)"
            )
        return item

    def _name(self, index: int) -> str:
        paths = getattr(self.dataset, "audio_paths", None)  # several splits have no such list
        return f"sentence {index}" if paths is None else f"sentence {index} ({paths[index]})"


def _reason(error: Exception) -> str:
    if isinstance(error, ImportError) and str(error).startswith("Please install"):
        return f"{error}, or compute features beforehand"
    return summary_of(error).rstrip(".")
