"""Recipe of an experiment: which files it needs, how text becomes tokens, how it is decoded and scored."""

from __future__ import annotations

import re
import urllib.parse
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Callable, Dict, List, Optional, Tuple

from sacrebleu.metrics import BLEU

from fairseq_el.dtypes import DTYPES
from fairseq_el.errors import FairseqElError, shortened
from fairseq_el.recipes.stamped_directory import DIRECTORIES
from fairseq_el.recipes.yaml_mapping import CheckedMapping, Kind, read_yaml
from fairseq_el.scoring import METRICS, SPLITS
from fairseq_el.tokenization import BPE_FILES

Say = Callable[[str], None]  # shows a line to the user; every step is given one

TASKS = ("translation", "language_modeling")
_DECODING: Dict[str, Kind] = {  # options of fairseq-generate
    "beam": (int, 1),
    "max_len_b": (int, 1),
    "min_len": (int, 0),
    "no_repeat_ngram_size": (int, 0),
    "lenpen": (float, None),
    "max_len_a": (float, 0),
}
_SCORING: Dict[str, Kind] = {  # options of fairseq-el score
    **dict.fromkeys(("metrics", "tokenize", "sentences"), (str, None)),
    **dict.fromkeys(("lowercase", "confidence"), (bool, None)),
}
_ORIGIN: Dict[str, Kind] = dict.fromkeys(("url", "sha256", "copy", "where"), (str, None))


@dataclass(frozen=True)
class Origin:
    """Origin of a file: downloaded, copied, or put there by the user.

    Attributes:
        url: from where the file is downloaded; ``sha256`` is its checksum.
        copy: the path of a file to copy, relative to the YAML file.
        where: tells the user where to get it.
    """

    url: Optional[str] = None
    sha256: Optional[str] = None
    copy: Optional[str] = None
    where: Optional[str] = None


@dataclass(frozen=True)
class Recipe:
    """Settings of an experiment. Names of files are relative to the working directory.

    Attributes:
        path: of the YAML file.
        task: name of the stock task; decoding uses ``el_<task>``.
        languages: fairseq's names for source and target.
        files: origins of all files that the recipe needs, by name.
        text: files of the sources and the references, one text in each line.
        checkpoint: file of the model.
        dictionaries: files of the source's and the target's dictionary.
        bpe: ``name`` of the BPE, and its files by their role.
        max_source: how many tokens of a text the model reads at most, special ones included.
        prompt_end: text after every source, for language models.
        begin: whether ``<s>`` goes in front of sources, and is the forced first word of outputs, as in fairseq's hub.
        dtype: number format to compute in.
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
    def bpe_files(self) -> Dict[str, str]:
        """Files that the BPE needs, by their role, such as ``vocab``."""
        return {key: name for key, name in self.bpe.items() if key != "name"}

    @property
    def is_language_model(self) -> bool:
        return self.task == "language_modeling"


def read_recipe(path: Path) -> Recipe:
    """Reads and checks a YAML file.

    Raises:
        OptionError: it can't be read.
        FairseqElError: it is not a recipe; every problem is named.
    """
    problems: List[str] = []
    recipe = _recipe(path, CheckedMapping(read_yaml(path), "", problems))
    if problems:
        listed = "".join(f"\n  - {problem}" for problem in problems)
        raise FairseqElError(f"{path} must be a recipe as in docs/recipes.md:{listed}")
    return recipe


def _recipe(path: Path, top: CheckedMapping) -> Recipe:
    task = top.take("task", str, one_of=TASKS)
    files = top.mapping("files")
    bpe = top.mapping("bpe")
    bpe_name = bpe.take("name", str, one_of=tuple(BPE_FILES))
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
        bpe={"name": bpe_name, **{key: bpe.take(key, str) for key in BPE_FILES.get(bpe_name, ())}},
        max_source=top.take("max_source", int, least=3),
        prompt_end=top.take("prompt_end", str, default=""),
        begin=top.take("begin", bool, default=False),
        dtype=top.take("dtype", str, default="fp32", one_of=tuple(DTYPES)),
        batch_size=top.take("batch_size", int, default=None, least=1),
        decoding=decoding.take_optional(_DECODING),
        scoring=scoring.take_optional(_SCORING),
    )
    _check_scoring(scoring)
    for key in ("beam", "max_len_b"):
        if key not in recipe.decoding:
            decoding.problem(key, "is needed")
    for mapping in (top, bpe, decoding, scoring):
        mapping.refuse_unknown_keys()
    if not recipe.is_language_model:
        _check_languages(recipe, top)
    if not top.problems:
        _check_names(recipe, top)
    return recipe


def _check_scoring(scoring: CheckedMapping) -> None:
    """Checks what ``fairseq-el score`` would refuse after hours of decoding."""
    metrics = scoring.values.get("metrics", METRICS[0])
    if isinstance(metrics, str) and not set(metrics.split(",")) <= set(METRICS):
        scoring.problem("metrics", f"must name metrics out of {', '.join(METRICS)}; got {shortened(repr(metrics))}")
    for key, known in (("tokenize", sorted(BLEU.TOKENIZERS)), ("sentences", sorted(SPLITS))):
        value = scoring.values.get(key, known[0])
        if isinstance(value, str) and value not in known:
            scoring.problem(key, f"must be one of {', '.join(known)}; got {shortened(repr(value))}")


def _check_languages(recipe: Recipe, top: CheckedMapping) -> None:
    """Checks the languages, which are parts of file names, as ``test.bpe.de`` and ``dict.de.txt``."""
    for name in dict.fromkeys(recipe.languages):
        if not re.fullmatch(r"[^\W_][\w@+-]{0,49}", name):
            top.problem("languages", f"must be names of letters and digits, such as de; got {shortened(repr(name))}")
    if recipe.languages[0] == recipe.languages[1]:
        top.problem(
            "languages", f"must be two different names, of source and target; got {recipe.languages[0]!r} twice"
        )


def _origin(values: CheckedMapping, name: str) -> Origin:
    origin = Origin(**values.take_optional(_ORIGIN))
    values.refuse_unknown_keys()
    if sum(value is not None for value in (origin.url, origin.copy, origin.where)) != 1:
        values.problem("", "must have one of url (with sha256), copy and where")
    if (origin.url is None) != (origin.sha256 is None):
        values.problem("", "must have both url and sha256, or neither: what is downloaded is checked")
    if origin.sha256 is not None and not re.fullmatch("[0-9a-f]{64}", origin.sha256):
        values.problem("sha256", f"must be 64 hexadecimal digits; got {origin.sha256}")
    if origin.url is not None and _url_problem(origin.url):
        values.problem("url", f"must be one of http:// or https://; {_url_problem(origin.url)}")
    if {*PurePosixPath(name).parts[:1]} & {*DIRECTORIES.values()}:
        values.problem("", f"must not be in {', '.join(DIRECTORIES.values())}: the steps make these directories")
    if not _inside(name) or (origin.copy is not None and PurePosixPath(origin.copy).is_absolute()):
        values.problem("", "must have relative paths, and its name must stay in the working directory")
    return origin


def _inside(name: str) -> bool:
    path = PurePosixPath(name)
    if "\0" in name:
        return False
    return not path.is_absolute() and ".." not in path.parts and path.name != ""


def _url_problem(url: str) -> Optional[str]:
    """Says why ``urllib`` can't fetch a URL, or would read a file of this machine for it; None for a good URL."""
    shown = shortened(repr(url))
    if not re.fullmatch(r"[!-~]+", url):
        return f"spaces, and characters that are not ASCII, must be percent-encoded, such as %20; got {shown}"
    try:
        parts = urllib.parse.urlsplit(url)
        host, _ = parts.hostname, parts.port
        (host or "").encode("idna")
    except ValueError as error:  # UnicodeError is one
        return f"{error}; got {shown}"
    return None if parts.scheme in ("http", "https") and host else f"got {shown}"


def _check_names(recipe: Recipe, top: CheckedMapping) -> None:
    used = [*recipe.text, recipe.checkpoint, *recipe.dictionaries, *recipe.bpe_files.values()]
    for name in dict.fromkeys(used):
        if name not in recipe.files:
            top.problem("files", f"must say where {name} comes from")
    if recipe.begin and recipe.is_language_model:
        top.problem("begin", "is for models with an encoder; language models begin with their prompt")
    if recipe.prompt_end and not recipe.is_language_model:
        top.problem("prompt_end", "is for task language_modeling")
