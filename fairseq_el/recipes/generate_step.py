"""Step ``generate``: ``fairseq-el generate``, in the largest batches that fit."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Dict, List

from fairseq_el.cards.check import usable_device
from fairseq_el.recipes.preprocess_step import BEGIN, data_of, read_report
from fairseq_el.recipes.recipe_file import Recipe, Say
from fairseq_el.recipes.stamped_directory import StampedDirectory, checksums
from fairseq_el.subprocesses import run_program

OUTPUT = "output.txt"
_INPUT = "input.txt"


def output_of(recipe: Recipe, workdir: Path, step: str = "generate") -> StampedDirectory:
    """The directory that the step ``generate`` makes.

    Raises:
        FairseqElError: its input is not made yet, or is out of date.
    """
    data = data_of(recipe, workdir, step)
    data.require_up_to_date(step)
    settings = {"decoding": recipe.decoding, "dtype": recipe.dtype}  # the batch size changes no output
    inputs = {"settings": settings, "files": checksums(workdir, [recipe.checkpoint]), "data": data.inputs}
    return StampedDirectory(workdir, "generate", inputs)


def generate(recipe: Recipe, workdir: Path, say: Say) -> None:
    """Decodes the text into ``generated/output.txt``, as fairseq prints hypotheses.

    Raises:
        FairseqElError: preprocessing is not done, nothing fits in memory, decoding failed, or torch was not built for
            the card.
    """
    output = output_of(recipe, workdir)
    if output.is_up_to_date():
        say(f"generate: nothing to do, {output.path} is up to date")
        return
    output.refuse_to_replace()
    usable_device()  # warns here: what the programs say is in their logs
    source = read_report(data_of(recipe, workdir))[recipe.languages[0]]

    def write(directory: Path) -> None:
        log = directory / "log.txt"
        say(f"generate: {source['lines']:,} texts; progress is in {log}")
        text = _with_prefixes(recipe, workdir, directory) if recipe.begin else _tokens_of(recipe, workdir)
        run_program("fairseq_el.cli", _arguments(recipe, workdir, text), directory / OUTPUT, log)
        (directory / _INPUT).unlink(missing_ok=True)

    output.make(write)


def _tokens_of(recipe: Recipe, workdir: Path) -> Path:
    return workdir / "data" / f"test.{recipe.languages[0]}"


def _with_prefixes(recipe: Recipe, workdir: Path, directory: Path) -> Path:
    """Writes the sources, each with the word that its output must begin with."""
    text = directory / _INPUT
    lines = _tokens_of(recipe, workdir).read_bytes().split(b"\n")[:-1]
    text.write_bytes(b"".join(line + f"\t{BEGIN}\n".encode() for line in lines))
    return text


def _arguments(recipe: Recipe, workdir: Path, text: Path) -> List[Any]:
    decoding: Dict[str, Any] = dict(recipe.decoding)
    how = ["--task", "language_modeling"]
    if not recipe.is_language_model:
        source, target = recipe.languages
        how = ["--task", "translation", "--source-lang", source, "--target-lang", target]
    elif "max_len_a" not in decoding:  # fairseq would count the prompt in
        decoding["el_max_new_tokens"] = decoding.pop("max_len_b") + 1  # the eos counts
        decoding["el_min_new_tokens"] = decoding.pop("min_len", 0)
    if recipe.begin:
        how.append("--target-prefix")
    if recipe.batch_size is not None:
        how += ["--batch-size", str(recipe.batch_size)]
    options = [part for name, value in decoding.items() for part in (f"--{name.replace('_', '-')}", value)]
    files = ["--path", workdir / recipe.checkpoint, "--input", text, "--format", "fairseq"]
    return ["generate", workdir / "data" / "bin", *files, *how, "--el-dtype", recipe.dtype, *options]
