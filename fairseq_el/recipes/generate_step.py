"""Step ``generate``: ``fairseq-generate`` with EL-attention, in the largest batches that fit."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any, Dict, List

import fairseq_el
from fairseq_el.cards.check import usable_device
from fairseq_el.recipes.preprocess_step import data_of, read_report
from fairseq_el.recipes.recipe_file import Recipe, Say
from fairseq_el.recipes.stamped_directory import StampedDirectory, checksums
from fairseq_el.subprocesses import run_program

OUTPUT = "output.txt"


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
    """Decodes the data set into ``generated/output.txt``, which is what ``fairseq-generate`` wrote.

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
    batch_size = min(recipe.batch_size or _planned(recipe, workdir, source["longest_kept"]), source["lines"])

    def write(directory: Path) -> None:
        log = directory / "log.txt"
        say(f"generate: {source['lines']:,} texts in batches of {batch_size:,}; progress is in {log}")
        run_program("fairseq_cli.generate", _arguments(recipe, workdir, batch_size), directory / OUTPUT, log)

    output.make(write)


def _arguments(recipe: Recipe, workdir: Path, batch_size: int) -> List[Any]:
    decoding: Dict[str, Any] = dict(recipe.decoding)
    if recipe.is_language_model:
        if "max_len_a" not in decoding:  # fairseq would count the prompt in
            decoding["el_max_new_tokens"] = decoding.pop("max_len_b") + 1  # the eos counts
            decoding["el_min_new_tokens"] = decoding.pop("min_len", 0)
        how = ["--task", "el_language_modeling", "--sample-break-mode", "eos"]
    else:
        source, target = recipe.languages
        how = ["--task", "el_translation", "--source-lang", source, "--target-lang", target]
        if recipe.begin:
            how += ["--prefix-size", "1"]  # of the references, which begin with <s>
    options = [part for name, value in decoding.items() for part in (f"--{name.replace('_', '-')}", value)]
    plugin = ["--user-dir", fairseq_el.__path__[0], "--el-dtype", recipe.dtype, "--batch-size", batch_size]
    return [workdir / "data" / "bin", "--path", workdir / recipe.checkpoint, *how, *plugin, *options]


def _planned(recipe: Recipe, workdir: Path, longest_source: int) -> int:
    """The largest batch that fits in free memory even if beams share nothing, or else if they share as usual."""
    decoding = recipe.decoding
    share = 0 if recipe.is_language_model else decoding.get("max_len_a", 0)
    written = int(share * longest_source) + decoding["max_len_b"]
    arguments = ["plan", "--json", "--path", workdir / recipe.checkpoint, "--beam", decoding["beam"]]
    arguments += ["--src-len", longest_source, "--tgt-len", written, "--dtype", recipe.dtype]
    with tempfile.TemporaryDirectory() as directory:
        planned = Path(directory, "plan.json")
        run_program("fairseq_el.cli", arguments, planned, Path(directory, "log.txt"))
        recommended = json.loads(planned.read_text("utf-8"))["recommended"]
    return recommended["worst"]["batch_size"] or recommended["expected"]["batch_size"]
