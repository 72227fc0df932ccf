"""Step ``preprocess``: turns raw text into the binary data that ``fairseq-generate`` reads."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Dict, List

from fairseq.data import Dictionary
from tqdm import tqdm

from fairseq_el.conversion import load_checkpoint, read_dictionary
from fairseq_el.errors import CheckpointMismatchError, FairseqElError
from fairseq_el.files import read_json, read_lines
from fairseq_el.recipes.recipe_file import Recipe, Say
from fairseq_el.recipes.stamped_directory import StampedDirectory, checksums, require_files
from fairseq_el.subprocesses import run_program
from fairseq_el.tokenization import LineTokenizer, files_of

BEGIN = "<s>"
_REPORT = "report.json"
_NEWLINE = b"\n"
_CR_ALONE = re.compile(rb"\r(?!\n)")


def data_of(recipe: Recipe, workdir: Path, step: str = "preprocess") -> StampedDirectory:
    """The directory that the step ``preprocess`` makes.

    Raises:
        FairseqElError: files that it is made from are missing.
    """
    names = ("task", "languages", "text", "dictionaries", "bpe", "max_source", "prompt_end", "begin")
    files = [*recipe.text, *recipe.bpe_files.values(), *recipe.dictionaries]
    require_files(workdir, [*files, recipe.checkpoint], step)
    if recipe.bpe["name"] == "el_pieces":
        named = [path.relative_to(workdir) for path in files_of(workdir / recipe.bpe["description"])]
        files += [str(name) for name in named if (workdir / name).is_file()]
    inputs = {
        "settings": {name: getattr(recipe, name) for name in names},
        "files": checksums(workdir, files),
    }
    return StampedDirectory(workdir, "preprocess", inputs)


def read_report(data: StampedDirectory) -> Dict[str, Dict[str, int]]:
    """Reads the counts of each language, by its name."""
    return read_json(data.path / _REPORT)


def preprocess(recipe: Recipe, workdir: Path, say: Say) -> None:
    """Splits text into tokens, cuts what is too long, and has ``fairseq-preprocess`` make it binary.

    In ``data/``, ``test.bpe.LANGUAGE`` is what fairseq's ``multiprocessing_bpe_encoder.py --keep-empty`` writes, and
    ``test.LANGUAGE`` the same cut to what the model reads.

    Raises:
        FairseqElError: a file is missing or can't be used, or the dictionary is not the checkpoint's.
    """
    data = data_of(recipe, workdir)
    if data.is_up_to_date():
        say(f"preprocess: nothing to do, {data.path} is up to date")
        return
    data.refuse_to_replace()
    _check_dictionaries(recipe, workdir)
    _check_lines(recipe, workdir)
    tokenizer = open_tokenizer(recipe, workdir)
    if tokenizer.added:
        say(f"tokens that were added to the dictionary stay whole: {_shortened(tokenizer.added)}")
    languages = _languages(recipe, workdir, tokenizer)

    def write(directory: Path) -> None:
        report = {}
        for language in languages:
            counts = write_tokens(language, tokenizer, directory)
            say(counts.as_text(language.raw.name))
            report[language.name] = asdict(counts)
        _make_binary(recipe, languages, directory)
        (directory / _REPORT).write_text(json.dumps(report, indent=2) + "\n", "utf-8")

    data.make(write)


def open_tokenizer(recipe: Recipe, workdir: Path) -> LineTokenizer:
    """Opens the tokenizer of a recipe, with the tokens that were added to its dictionaries.

    Raises:
        FairseqElError: a file can't be read.
    """
    files = {key: workdir / name for key, name in recipe.bpe_files.items()}
    dictionaries = [read_dictionary(workdir / name) for name in dict.fromkeys(recipe.dictionaries)]
    return LineTokenizer(recipe.bpe["name"], files, dictionaries)


def _check_dictionaries(recipe: Recipe, workdir: Path) -> None:
    """Checks that the checkpoint was trained with the dictionaries, before text is made with them.

    Raises:
        CheckpointMismatchError: the checkpoint's embeddings are for another number of words.
        FairseqElError: the checkpoint or a dictionary can't be read.
    """
    checkpoint = load_checkpoint(str(workdir / recipe.checkpoint), "checkpoint")
    problems = []
    for side, name in zip(("encoder", "decoder"), recipe.dictionaries):
        if side == "encoder" and recipe.is_language_model:
            continue
        embeddings = checkpoint.weights.get(f"{side}.embed_tokens.weight")
        if embeddings is None:
            raise CheckpointMismatchError(
                f"task {recipe.task} needs a model with an {side}; {checkpoint.path} has no {side}.embed_tokens.weight"
            )
        words = read_dictionary(workdir / name)
        # fairseq drops the embedding of <mask>, which pretrained BART has at the end, where the dictionary has none.
        mask = 1 if "bart" in checkpoint.arch and "<mask>" not in words else 0
        if len(embeddings) not in (len(words), len(words) + mask):
            problems.append(f"\n  - {side}: {len(embeddings):,} in the checkpoint, {len(words):,} in {name}")
    if problems:
        raise CheckpointMismatchError(
            f"the dictionary must have as many words as the model has embeddings, 4 special symbols included; those of "
            f"{checkpoint.path} differ:{''.join(problems)}\nTake the dictionary that the model was trained with"
        )


def _shortened(words: List[str], shown: int = 8) -> str:
    more = f", ... ({len(words):,} in all)" if len(words) > shown else ""
    return ", ".join(words[:shown]) + more


def _check_lines(recipe: Recipe, workdir: Path) -> None:
    """Checks that there are as many references as sources, and that fairseq's programs see the same line ends."""
    counts = []
    for name in recipe.text:
        counts.append(len(read_lines(workdir / name, name).lines))
        content = (workdir / name).read_bytes()
        alone = _CR_ALONE.search(content)
        if alone is not None:
            line = content.count(_NEWLINE, 0, alone.start()) + 1
            raise FairseqElError(
                f"{workdir / name} must have no carriage return inside a line, because fairseq's programs take it for "
                f"the end of one; line {line} has one. Put a space in its place"
            )
    if counts[0] != counts[1]:
        raise FairseqElError(
            "source and reference must have the same number of lines, at least one; in "
            f"{workdir}, {recipe.text[0]} has {counts[0]:,} lines and {recipe.text[1]} {counts[1]:,}"
        )


def _languages(recipe: Recipe, workdir: Path, tokenizer: LineTokenizer) -> List[Language]:
    sides = [
        (name, workdir / raw, workdir / dictionary)
        for name, raw, dictionary in zip(recipe.languages, recipe.text, recipe.dictionaries)
    ]
    if recipe.is_language_model:
        end = tokenizer.encode(recipe.prompt_end).split()
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


@dataclass
class Language:
    """One side of the text, and the tokens that go around each line.

    Attributes:
        name: as in fairseq's file names.
        raw: path of the text, one sample in each line.
        dictionary: path of ``dict.txt``.
        limit: how many tokens of a line are kept at most.
        begin, end: tokens before and after every line.
    """

    name: str
    raw: Path
    dictionary: Path
    limit: int
    begin: List[str] = field(default_factory=list)
    end: List[str] = field(default_factory=list)


@dataclass
class Counts:
    """Numbers of lines and tokens of one language.

    Attributes:
        limit: how many tokens of a line were kept at most.
        lines: number of lines.
        empty: lines without a token.
        cut: lines of more tokens than the limit.
        longest: tokens of the longest line, before it was cut.
        longest_kept: tokens of the longest line as the model reads it, special ones included.
        unknown: tokens that are not in the dictionary.
    """

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


def write_tokens(language: Language, tokenizer: LineTokenizer, directory: Path) -> Counts:
    """Writes ``test.bpe.LANGUAGE``, the whole text, and ``test.LANGUAGE``, which is cut.

    Raises:
        CheckpointMismatchError: the dictionary lacks tokens, though all tokens of this BPE must be in it.
    """
    words = read_dictionary(language.dictionary)
    counts = Counts(language.limit)
    encoded, cut = directory / f"test.bpe.{language.name}", directory / f"test.{language.name}"
    # Lines end where Python, and so multiprocessing_bpe_encoder.py, ends them. A byte-order mark is not text.
    with language.raw.open(encoding="utf-8-sig") as lines, encoded.open("w", encoding="utf-8") as whole, cut.open(
        "w", encoding="utf-8"
    ) as kept:
        for line in tqdm(lines, desc=language.raw.name, unit="line", leave=False, disable=None):
            tokens = tokenizer.encode(line.strip())
            whole.write(tokens + "\n")
            kept.write(" ".join(_cut(tokens.split(), language, words, counts)) + "\n")
    if counts.unknown and tokenizer.knows_all:
        raise CheckpointMismatchError(
            f"every token of {tokenizer.name} BPE must be in the dictionary; {counts.unknown:,} of {language.raw} are "
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
