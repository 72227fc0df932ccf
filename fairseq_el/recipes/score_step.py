"""Step ``score``: puts hypotheses in order, detokenises them, and scores them with ``fairseq-el score``."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Dict, List

from tabulate import tabulate

from fairseq_el.errors import FairseqElError
from fairseq_el.files import read_json, read_lines
from fairseq_el.recipes.generate_step import OUTPUT, output_of
from fairseq_el.recipes.preprocess_step import open_tokenizer
from fairseq_el.recipes.recipe_file import Recipe, Say
from fairseq_el.recipes.stamped_directory import StampedDirectory
from fairseq_el.scoring import read_hypotheses
from fairseq_el.subprocesses import run_program
from fairseq_el.tokenization import LineTokenizer


def scores_of(recipe: Recipe, workdir: Path) -> StampedDirectory:
    """The directory that the step ``score`` makes.

    Raises:
        FairseqElError: decoding is not done, or its output is out of date.
    """
    output = output_of(recipe, workdir, "score")
    output.require_up_to_date("score")
    return StampedDirectory(workdir, "score", {"settings": recipe.scoring, "output": output.inputs})


def score(recipe: Recipe, workdir: Path, say: Say) -> None:
    """Writes ``scores/hypotheses.txt``, ``references.txt`` and ``scores.json``.

    Raises:
        FairseqElError: decoding is not done, or its output can't be scored.
    """
    scores = scores_of(recipe, workdir)
    if scores.is_up_to_date():
        say(f"score: nothing to do, {scores.path} is up to date")
    else:
        scores.refuse_to_replace()
        scores.make(lambda directory: _score(recipe, workdir, directory))
    say(_as_table(read_json(scores.path / "scores.json")))


def _as_table(result: Dict[str, Any]) -> str:
    rows = []
    for name, score in result["scores"].items():
        interval = f"{score['low']:.2f} to {score['high']:.2f}" if score["low"] is not None else ""
        rows.append([name, f"{score['value']:.2f}", interval, score["signature"]])
    table = f"{result['sentences']:,} sentences\n{tabulate(rows, tablefmt='plain', disable_numparse=True)}"
    return "\n".join([table, *(f"warning: {warning}" for warning in result.get("warnings", []))])


def _score(recipe: Recipe, workdir: Path, directory: Path) -> None:
    tokenizer = open_tokenizer(recipe, workdir)
    hypotheses = _hypotheses(recipe, workdir, tokenizer)
    references = _lines(workdir / recipe.text[1])
    if recipe.bpe["name"] == "split":
        references = [tokenizer.decode(line.split()) for line in references]
    files = []
    for name, texts in (("hypotheses.txt", hypotheses), ("references.txt", references)):
        files.append(directory / name)
        files[-1].write_bytes("".join(text + "\n" for text in texts).encode("utf-8"))
    arguments: List[Any] = ["score", files[0], "--format", "text", "--ref", files[1], "--json"]
    for name, value in recipe.scoring.items():
        arguments += ([f"--{name}"] if value else []) if isinstance(value, bool) else [f"--{name}", value]
    log = directory / "log.txt"
    run_program("fairseq_el.cli", arguments, directory / "scores.json", log)
    log.unlink()


def _hypotheses(recipe: Recipe, workdir: Path, tokenizer: LineTokenizer) -> List[str]:
    """Reads the best hypothesis of every sentence, in the order of the data set.

    Raises:
        FairseqElError: a sentence has none.
    """
    path = workdir / "generated" / OUTPUT
    found = read_hypotheses(read_lines(path, "the output of fairseq-generate").lines)
    prompts = _lines(workdir / "data" / f"test.{recipe.languages[0]}")
    missing = [number for number in range(len(prompts)) if number not in found]
    if missing:
        raise FairseqElError(
            f"{path} must have a hypothesis of every text; {len(missing)} of {len(prompts)} have none, the first is "
            f"{missing[0]}. Remove {path.parent} and run: fairseq-el recipe generate"
        )
    texts = []
    for number, prompt in enumerate(prompts):
        tokens = found[number][0].tokens
        words = tokens.split(" ") if tokens else []  # as fairseq joins them; a word may have other white space in it
        if recipe.is_language_model:
            words = words[len(prompt.split()) :]
        texts.append(tokenizer.decode(words))
    return texts


def _lines(path: Path) -> List[str]:
    return [line.strip() for line in read_lines(path, "text").lines]
