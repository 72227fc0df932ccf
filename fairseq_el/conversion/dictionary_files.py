"""Reads dictionaries, which fairseq keeps in files beside a checkpoint."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, List

from fairseq.data import Dictionary

from fairseq_el.conversion.checkpoint import Checkpoint, get_setting
from fairseq_el.errors import FairseqElError, summary_of
from fairseq_el.files import require_file


def dictionary_names(checkpoint: Checkpoint) -> List[str]:
    """Lists the files that fairseq's tasks read: ``dict.txt``, and one for each language."""
    settings = [checkpoint.state.get("args"), get_setting(checkpoint.state.get("cfg"), "task")]
    names = ["dict.txt"]
    for name in ("source_lang", "target_lang"):
        languages = [get_setting(of, name) for of in settings if of is not None]
        names.extend(f"dict.{language}.txt" for language in languages if _is_name(language))
    return list(dict.fromkeys(names))


def _is_name(language: Any) -> bool:
    """Returns whether it can be a part of a file's name."""
    return isinstance(language, str) and re.fullmatch(r"[^/\0]{1,100}", language) is not None


def read_dictionary(path: Path) -> Dictionary:
    """Reads a dictionary.

    Raises:
        OptionError: the file does not exist.
        FairseqElError: the file is not a dictionary.
    """
    require_file(path, "a dictionary must be a file")
    try:
        return Dictionary.load(str(path))
    except Exception as error:  # fairseq raises its own, of many classes
        raise FairseqElError(
            f"{path} must be a dictionary, with a word and its count on each line, no word twice; "
            f"{summary_of(error)}. Copy it again from where the model was trained"
        ) from error
