"""One experiment: a YAML file that says which files it needs, how text becomes tokens, how it is decoded and scored."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Callable, Dict, List, Optional, Tuple

import yaml

from fairseq_el.errors import FairseqElError, OptionError
from fairseq_el.planning import DTYPES
from fairseq_el.recipes.checked_mapping import CheckedMapping

Say = Callable[[str], None]  # shows the user a line; every step is called with one

TASKS = ("translation", "language_modeling")
BPES = {  # and the files that each needs
    "gpt2": ("encoder", "vocab"),
    "sentencepiece": ("model",),
    "el_pieces": ("description",),
    "split": (),
}
_DECODING = {  # options of fairseq-generate
    **dict.fromkeys(("beam", "max_len_b", "min_len", "no_repeat_ngram_size"), int),
    **dict.fromkeys(("lenpen", "max_len_a"), float),
}
_SCORING = {"metrics": str, "tokenize": str, "sentences": str, "lowercase": bool, "confidence": bool}


@dataclass(frozen=True)
class Origin:
    """Where a file comes from: downloaded, copied, or put there by the user.

    Attributes:
        url: of the file; then its ``sha256`` is known.
        copy: the path of a file to copy, relative to the YAML file.
        where: says to the user where to get it.
    """

    url: Optional[str] = None
    sha256: Optional[str] = None
    copy: Optional[str] = None
    where: Optional[str] = None


@dataclass(frozen=True)
class Recipe:
    """What a YAML file says. Names of files are relative to the working directory.

    Attributes:
        path: of the YAML file.
        task: stock's name; decoded with ``el_<task>``.
        languages: fairseq's names for source and target.
        files: all that is needed, by name.
        text: source and references, one text a line.
        checkpoint: the model.
        dictionaries: of source and target.
        bpe: ``name``, and the files of that BPE.
        max_source: tokens that the model reads of a text at most, special ones included.
        prompt_end: text after every source, for language models.
        begin: as fairseq's hub does: ``<s>`` in front of the source, and forced as the first word of the output.
        dtype: numbers to compute with.
        batch_size: sentences at a time; None for as many as fit in memory.
        decoding: options of ``fairseq-generate``.
        scoring: options of ``fairseq-el score``.
    """

    path: Path
    task: str
    languages: Tuple[str, str]
    files: Dict[str, Origin]
    text: Tuple[str, str]
    checkpoint: str
    dictionaries: Tuple[str, str]
    bpe: Dict[str, str]
    max_source: int
    prompt_end: str
    begin: bool
    dtype: str
    batch_size: Optional[int]
    decoding: Dict[str, Any]
    scoring: Dict[str, Any]

    @property
    def is_language_model(self) -> bool:
        return self.task == "language_modeling"


def read_recipe(path: Path) -> Recipe:
    """Reads and checks a YAML file.

    Raises:
        OptionError: it can't be read.
        FairseqElError: it is no recipe; every problem is named.
    """
    try:
        values = yaml.safe_load(path.read_text("utf-8"))
    except OSError as error:
        raise OptionError(f"CONFIG must be a YAML file that can be read; {path}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise FairseqElError(f"CONFIG must be YAML; {path} is not: {error}") from error
    problems: List[str] = []
    recipe = _recipe(path, CheckedMapping(values, "", problems))
    if problems:
        listed = "".join(f"\n  - {problem}" for problem in problems)
        raise FairseqElError(f"{path} must be a recipe as in docs/recipes.md:{listed}")
    return recipe


def _recipe(path: Path, top: CheckedMapping) -> Recipe:
    task = top.take("task", str, one_of=TASKS)
    files = top.mapping("files")
    bpe = top.mapping("bpe")
    bpe_name = bpe.take("name", str, one_of=tuple(BPES))
    decoding = top.mapping("decoding")
    scoring = top.mapping("scoring", default={})
    recipe = Recipe(
        path=path,
        task=task,
        languages=top.pair("languages", default=("source", "target")),
        files={name: _origin(files.mapping(name), name) for name in files.values},
        text=top.pair("text"),
        checkpoint=top.take("checkpoint", str),
        dictionaries=top.pair("dictionary", or_one=True),
        bpe={"name": bpe_name, **{key: bpe.take(key, str) for key in BPES.get(bpe_name, ())}},
        max_source=top.take("max_source", int, least=3),
        prompt_end=top.take("prompt_end", str, default=""),
        begin=top.take("begin", bool, default=False),
        dtype=top.take("dtype", str, default="fp32", one_of=tuple(DTYPES)),
        batch_size=top.take("batch_size", int, default=None, least=1),
        decoding=decoding.several(_DECODING),
        scoring=scoring.several(_SCORING),
    )
    for key in ("beam", "max_len_b"):
        if key not in recipe.decoding:
            decoding.problem(key, "is needed")
    for mapping in (top, bpe, decoding, scoring):
        mapping.end()
    if not top.problems:
        _check_names(recipe, top)
    return recipe


def _origin(values: CheckedMapping, name: str) -> Origin:
    origin = Origin(**values.several(dict.fromkeys(("url", "sha256", "copy", "where"), str)))
    values.end()
    if sum(value is not None for value in (origin.url, origin.copy, origin.where)) != 1:
        values.problem("", "must have one of url (with sha256), copy and where")
    if (origin.url is None) != (origin.sha256 is None):
        values.problem("", "must have both url and sha256, or neither: what is downloaded is checked")
    if origin.sha256 is not None and not re.fullmatch("[0-9a-f]{64}", origin.sha256):
        values.problem("sha256", f"must be 64 hexadecimal digits; got {origin.sha256}")
    if not _inside(name) or (origin.copy is not None and PurePosixPath(origin.copy).is_absolute()):
        values.problem("", "must have relative paths, and its name must stay in the working directory")
    return origin


def _inside(name: str) -> bool:
    path = PurePosixPath(name)
    return not path.is_absolute() and ".." not in path.parts and path.name != ""


def _check_names(recipe: Recipe, top: CheckedMapping) -> None:
    used = [*recipe.text, recipe.checkpoint, *recipe.dictionaries]
    used += [name for key, name in recipe.bpe.items() if key != "name"]
    for name in dict.fromkeys(used):
        if name not in recipe.files:
            top.problem("files", f"must say where {name} comes from")
    if recipe.begin and recipe.is_language_model:
        top.problem("begin", "is for models with an encoder; language models begin with their prompt")
    if recipe.prompt_end and not recipe.is_language_model:
        top.problem("prompt_end", "is for task language_modeling")
