"""Step ``preprocess``: raw text to what ``fairseq-generate`` reads."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Dict, List

from fairseq.data import Dictionary
from tqdm import tqdm

from fairseq_el.conversion import read_dictionary
from fairseq_el.errors import CheckpointMismatchError, FairseqElError
from fairseq_el.files.reading import read_json
from fairseq_el.files.text_lines import read_lines
from fairseq_el.recipes.config import Recipe, Say
from fairseq_el.recipes.dictionaries import check_dictionaries
from fairseq_el.recipes.files import checksums, require_files
from fairseq_el.recipes.pieces import Pieces
from fairseq_el.recipes.product import Product
from fairseq_el.subprocesses import run_program
from fairseq_el.tokenization import files_of

BEGIN = "<s>"
_REPORT = "report.json"
_NEWLINE = b"\n"
_CR_ALONE = re.compile(rb"\r(?!\n)")


@dataclass
class Counts:
    """Of the tokens of one language, before they were cut and after."""

    limit: int
    lines: int = 0
    empty: int = 0
    cut: int = 0
    longest: int = 0
    longest_kept: int = 0
    unknown: int = 0

    def as_text(self, name: str) -> str:
        parts = [f"{name}: {self.lines:,} lines, the longest of {self.longest:,} tokens"]
        parts.append(f"{self.cut:,} of more than {self.limit:,} were cut")
        if self.empty:
            parts.append(f"{self.empty:,} are empty")
        if self.unknown:
            parts.append(f"{self.unknown:,} tokens are not in the dictionary")
        return "; ".join(parts)


@dataclass
class Language:
    """One side of the text, and what is put around its tokens."""

    name: str
    raw: Path
    dictionary: Path
    limit: int
    begin: List[str] = field(default_factory=list)
    end: List[str] = field(default_factory=list)


def data_of(recipe: Recipe, work: Path, step: str = "preprocess") -> Product:
    """The directory that this step makes.

    Raises:
        FairseqElError: files that it is made from are missing.
    """
    names = ("task", "languages", "text", "dictionaries", "bpe", "max_source", "prompt_end", "begin")
    bpe_files = [name for key, name in recipe.bpe.items() if key != "name"]
    files = [*recipe.text, *bpe_files, *recipe.dictionaries]
    require_files(work, [*files, recipe.checkpoint], step)
    if recipe.bpe["name"] == "el_pieces":
        named = [path.relative_to(work) for path in files_of(work / recipe.bpe["description"])]
        files += [str(name) for name in named if (work / name).is_file()]
    made_from = {
        "settings": {name: getattr(recipe, name) for name in names},
        "files": checksums(work, files),
    }
    return Product(work, "preprocess", made_from)


def read_report(data: Product) -> Dict[str, Dict[str, int]]:
    """What was counted, by language."""
    return read_json(data.path / _REPORT)


def preprocess(recipe: Recipe, work: Path, say: Say) -> None:
    """Splits text into tokens, cuts what is too long, and has ``fairseq-preprocess`` make it binary.

    In ``data/``, ``test.bpe.LANGUAGE`` is what fairseq's ``multiprocessing_bpe_encoder.py --keep-empty`` writes, and
    ``test.LANGUAGE`` the same cut to what the model reads.

    Raises:
        FairseqElError: a file is missing or is not what it should be, or the dictionary is not the checkpoint's.
    """
    data = data_of(recipe, work)
    if data.is_made():
        say(f"preprocess: nothing to do, {data.path} is up to date")
        return
    data.refuse_to_replace()
    check_dictionaries(recipe, work)
    _check_lines(recipe, work)
    pieces = open_pieces(recipe, work)
    if pieces.added:
        say(f"tokens that were added to the dictionary stay whole: {_shortened(pieces.added)}")
    languages = _languages(recipe, work, pieces)

    def write(directory: Path) -> None:
        report = {}
        for language in languages:
            counts = write_tokens(language, pieces, directory)
            say(counts.as_text(language.raw.name))
            report[language.name] = asdict(counts)
        _make_binary(recipe, languages, directory)
        (directory / _REPORT).write_text(json.dumps(report, indent=2) + "\n", "utf-8")

    data.make(write)


def open_pieces(recipe: Recipe, work: Path) -> Pieces:
    """The pieces of a recipe, with the tokens that were added to its dictionaries.

    Raises:
        FairseqElError: a file can't be read.
    """
    names = dict.fromkeys(recipe.dictionaries)
    return Pieces(recipe.bpe, work, [read_dictionary(work / name) for name in names])


def _shortened(words: List[str], shown: int = 8) -> str:
    more = f", ... ({len(words):,} in all)" if len(words) > shown else ""
    return ", ".join(words[:shown]) + more


def _check_lines(recipe: Recipe, work: Path) -> None:
    counts = []
    for name in recipe.text:
        counts.append(len(read_lines(work / name, name).lines))
        content = (work / name).read_bytes()
        alone = _CR_ALONE.search(content)
        if alone is not None:
            line = content.count(_NEWLINE, 0, alone.start()) + 1
            raise FairseqElError(
                f"{work / name} must have no carriage return inside a line, because fairseq's programs take it for the "
                f"end of one; line {line} has one. Put a space in its place"
            )
    if counts[0] != counts[1]:
        raise FairseqElError(
            "source and reference must be in the same line of their files, and there must be some; in "
            f"{work}, {recipe.text[0]} has {counts[0]:,} lines and {recipe.text[1]} {counts[1]:,}"
        )


def _languages(recipe: Recipe, work: Path, pieces: Pieces) -> List[Language]:
    sides = [
        (name, work / raw, work / dictionary)
        for name, raw, dictionary in zip(recipe.languages, recipe.text, recipe.dictionaries)
    ]
    if recipe.is_language_model:
        end = pieces.encode(recipe.prompt_end).split()
        limit = recipe.max_source - len(end)
        if limit < 1:
            raise FairseqElError(
                f"max_source must leave room beside prompt_end, which has {len(end)} tokens; it is {recipe.max_source}"
            )
        return [Language(*sides[0], limit, end=end)]
    begin = [BEGIN] if recipe.begin else []
    limit = recipe.max_source - len(begin) - 1  # and </s>
    # References are cut too: fairseq-generate refuses longer ones. They are scored as they were.
    return [Language(*side, limit, begin) for side in sides]


def write_tokens(language: Language, pieces: Pieces, directory: Path) -> Counts:
    """Writes ``test.bpe.LANGUAGE`` and ``test.LANGUAGE``.

    Raises:
        CheckpointMismatchError: the dictionary lacks tokens of a BPE that needs no unknown ones.
    """
    words = read_dictionary(language.dictionary)
    counts = Counts(language.limit)
    encoded, cut = directory / f"test.bpe.{language.name}", directory / f"test.{language.name}"
    # Line ends are taken as multiprocessing_bpe_encoder.py does, which is as Python does. A byte-order mark is no text.
    with language.raw.open(encoding="utf-8-sig") as lines, encoded.open("w", encoding="utf-8") as whole, cut.open(
        "w", encoding="utf-8"
    ) as kept:
        for line in tqdm(lines, desc=language.raw.name, unit="line", leave=False, disable=None):
            tokens = pieces.encode(line.strip())
            whole.write(tokens + "\n")
            kept.write(" ".join(_cut(tokens.split(), language, words, counts)) + "\n")
    if counts.unknown and pieces.knows_all:
        raise CheckpointMismatchError(
            f"every token of {pieces.name} BPE must be in the dictionary; {counts.unknown:,} of {language.raw} are "
            f"not in {language.dictionary}. Take the dictionary that the model was trained with"
        )
    return counts


def _cut(tokens: List[str], language: Language, words: Dictionary, counts: Counts) -> List[str]:
    kept = [*language.begin, *tokens[: language.limit], *language.end]
    counts.lines += 1
    counts.empty += not tokens
    counts.cut += len(tokens) > language.limit
    counts.longest = max(counts.longest, len(tokens))
    counts.longest_kept = max(counts.longest_kept, len(kept) + 1)  # and </s>
    counts.unknown += sum(words.index(token) == words.unk() for token in tokens)
    return kept


def _make_binary(recipe: Recipe, languages: List[Language], directory: Path) -> None:
    source = languages[0]
    arguments: List[Any] = ["--destdir", directory / "bin", "--srcdict", source.dictionary]
    if recipe.is_language_model:
        arguments += ["--only-source", "--testpref", directory / f"test.{source.name}"]
    else:
        target = languages[1]
        arguments += ["--tgtdict", target.dictionary, "--testpref", directory / "test"]
        arguments += ["--source-lang", source.name, "--target-lang", target.name]
    output, log = directory / "output", directory / "log"
    run_program("fairseq_cli.preprocess", arguments, output, log)
    for file in (output, log, directory / "bin" / "preprocess.log"):  # times and paths, of no use after success
        file.unlink(missing_ok=True)
