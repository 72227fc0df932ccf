"""Preprocessed data of a few random sentences, checkpoints of tiny models for them, and fairseq's programs on them."""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import random
import sys
from pathlib import Path
from typing import Any

import torch
from commands import USER_DIR
from fairseq import options as options_module
from fairseq.data import Dictionary
from fairseq.data.encoders.gpt2_bpe_utils import bytes_to_unicode
from fairseq_cli import preprocess
from tiny import build_language_model, build_model, dictionary, settings

WORDS = 16
# Lines whose characters a BPE and a text file may take for something else.
HARD_LINES = ("  x", "a\u00a0b", "caf\u00e9 \u4e2d \U0001f600", "tab\there", "a\u2028b", "<s> </s>", "it's  spaced ")


def sentences(count: int, seed: int, longest: int = 9) -> list[str]:
    """Random sentences of the words of :func:`tiny.dictionary`."""
    draw = random.Random(seed)
    return [" ".join(f"w{draw.randrange(WORDS)}" for _ in range(draw.randint(1, longest))) for _ in range(count)]


def write_pairs(directory: Path, sizes: dict[str, int], source: str = "aa", target: str = "bb", **dictionaries) -> Path:
    """A data set of sentence pairs.

    Args:
        sizes: number of pairs of each split; there must be ``train``.
        dictionaries: ``words`` on both sides, or ``source_words`` and ``target_words`` (default: :func:`dictionary`).
    """
    return _preprocessed(directory, sizes, [source, target], dictionaries)


def write_text(directory: Path, sizes: dict[str, int]) -> Path:
    """A data set for language models."""
    return _preprocessed(directory, sizes, [None], {})


def _preprocessed(directory: Path, sizes: dict[str, int], languages: list[str | None], dictionaries: Any) -> Path:
    work = directory / "text"
    work.mkdir(parents=True)
    words = dictionaries.get("words") or dictionary(WORDS)
    sides = [dictionaries.get("source_words", words), dictionaries.get("target_words", words)]
    options = ["--destdir", str(directory / "data"), "--workers", "1"]
    for option, language, side in zip(("src", "tgt"), languages, sides):
        side.save(str(work / f"{option}.txt"))
        options += [f"--{option}dict", str(work / f"{option}.txt")]
        for number, (split, size) in enumerate(sizes.items()):
            path = work / (split if language is None else f"{split}.{language}")
            path.write_text("".join(f"{line}\n" for line in sentences(size, seed=number)), encoding="utf-8")
    if languages == [None]:
        options.append("--only-source")
    else:
        options += ["-s", str(languages[0]), "-t", str(languages[1])]
    others = [split for split in sizes if split != "train"]
    options += ["--trainpref", str(work / "train"), "--validpref", ",".join(str(work / split) for split in others)]
    with contextlib.redirect_stderr(io.StringIO()):
        preprocess.main(options_module.get_preprocessing_parser().parse_args(options))
    for number in reversed(range(1, len(others))):  # fairseq-preprocess names them valid, valid1, valid2, ...
        _rename_split(directory / "data", f"valid{number}", others[number] + "+")
    _rename_split(directory / "data", "valid", others[0] + "+")
    for split in others:
        _rename_split(directory / "data", split + "+", split)
    return directory / "data"


def _rename_split(data: Path, old: str, new: str) -> None:
    for path in list(data.glob(f"{old}.*")):
        path.rename(path.with_name(new + path.name[len(old) :]))


def write_byte_bpe(directory: Path) -> dict[str, Path]:
    """Files of a BPE of GPT-2's kind that merges nothing: a piece is a byte."""
    letters = {letter: i for i, letter in enumerate(bytes_to_unicode().values())}
    (directory / "encoder.json").write_text(json.dumps(letters))
    (directory / "vocab.bpe").write_text("#version: 0.2\n")
    return {"encoder": directory / "encoder.json", "vocab": directory / "vocab.bpe"}


def save_checkpoint(path: Path, arch: str = "transformer", words: Dictionary | None = None, **options: Any) -> Path:
    """A tiny random model as a checkpoint. ``options``: of the model, and ``task``, ``seed``."""
    words = words or dictionary(WORDS)
    task, seed = options.pop("task", "translation"), options.pop("seed", 1)
    build = build_language_model if arch == "transformer_lm" else build_model
    extra = (words, seed, torch.float32) if build is build_language_model else (arch, words, seed, torch.float32)
    model = build(*extra, **options)
    if build is build_language_model:
        options = {
            **{"tokens_per_sample": 64, "decoder_input_dim": 16, "decoder_output_dim": 16},
            **{"share_decoder_input_output_embed": True, **options},
        }
    args = settings(arch, **options)
    args.task, args.criterion = task, "cross_entropy"
    args.max_source_positions = args.max_target_positions = 64
    history = {"criterion_name": "CrossEntropyCriterion", "best_loss": None, "optimizer_name": "", "num_updates": 1}
    state = {"args": args, "model": model.state_dict(), "optimizer_history": [history]}
    state["extra_state"] = {"epoch": 1, "val_loss": None, "train_iterator": {"epoch": 1}}
    torch.save(state, str(path))
    return path


def fairseq(program: str, *arguments: object, stdin: str = "", plugin: bool = True) -> str:
    """What ``fairseq-<program>`` prints, run in this process; errors are raised.

    Args:
        plugin: whether it has ``--user-dir fairseq_el``.
    """
    module = importlib.import_module(f"fairseq_cli.{program.replace('-', '_')}")
    options = [*map(str, arguments), "--cpu", "--num-workers", "0", "--no-progress-bar"]
    argv, old_stdin, output = sys.argv, sys.stdin, io.StringIO()
    sys.argv = [f"fairseq-{program}", *options, *(["--user-dir", USER_DIR] if plugin else [])]
    sys.stdin = io.StringIO(stdin)
    try:
        with contextlib.redirect_stdout(output):
            module.cli_main()
    finally:
        sys.argv, sys.stdin = argv, old_stdin
    return output.getvalue()
