r"""Measures what Top-k attention costs over long inputs: perplexity of a byte-level language model with every k.

    python benchmarks/topk_perplexity.py DATA --out DIR --attention 16,64,128,full [--length L] [--updates N] \
        [--finetune M] [--scratch M] [--samples S] [--train "any options of fairseq-train"]

Makes the table of "What does Top-k cost over long inputs?" in docs/benchmarks.md. DATA is as for --task
byte_language_modeling: a directory with train, valid and test. One small model is trained without Top-k, for N updates
on samples of L bytes. The test set is then scored with it for every k. With --finetune M, it is also scored after M
more updates with that k (`full`: without Top-k), and with --scratch M, a model that is trained with that k from the
start, for M updates. DIR keeps trained models, so the same command goes on where it was stopped, and one with more
values of k adds to the table.
"""

from __future__ import annotations

import argparse
import json
import math
import shlex
import sys
from pathlib import Path
from typing import Any, Dict, List, Optional, Tuple

import torch
from common import Arguments, add_numbers, make_parser, run_benchmark, table
from fairseq import checkpoint_utils
from tqdm import tqdm

import fairseq_el.plugin  # noqa: F401  registers models and tasks
from fairseq_el.cli.options import not_negative, positive
from fairseq_el.cli.streams import write_line
from fairseq_el.errors import FairseqElError, OptionError
from fairseq_el.files import write_whole, write_whole_directory
from fairseq_el.subprocesses import run_program
from fairseq_el.topk import disable_topk_attention, enable_topk_attention

PLUGIN = ["--user-dir", str(Path(__file__).resolve().parent.parent / "fairseq_el")]
PROGRAM = "benchmarks/topk_perplexity.py"
FULL = "full"
AS_IT_IS, TUNED, SCRATCH = "as it is", "tuned", "from scratch"
MODEL = (
    "--decoder-layers 2 --decoder-embed-dim 128 --decoder-input-dim 128 --decoder-output-dim 128 "
    "--decoder-attention-heads 2 --decoder-ffn-embed-dim 512 --share-decoder-input-output-embed "
    "--decoder-normalize-before --dropout 0"
)
TRAINING = (
    "--batch-size 1 --optimizer adam --adam-betas (0.9,0.98) --clip-norm 1.0 --lr-scheduler polynomial_decay --seed 1"
)
RATE, RATE_OF_TUNING = 0.003, 0.0003


def choices(text: str) -> List[str]:
    """Splits ``"16,64,full"``."""
    names = list(dict.fromkeys(text.split(",")))
    for name in names:
        if name != FULL:
            try:
                positive(name)
            except argparse.ArgumentTypeError as error:
                raise argparse.ArgumentTypeError(
                    f"must be numbers from 1 on, or {FULL}, with commas; got {name!r}"
                ) from error
    return names


def parser() -> argparse.ArgumentParser:
    result = make_parser("topk_perplexity.py", __doc__)
    result.add_argument("data", type=Path, metavar="DATA", help="a directory with the files train, valid and test")
    result.add_argument("--out", type=Path, required=True, metavar="DIR", help="for models, results.json and table.md")
    result.add_argument("--attention", type=choices, required=True, metavar="LIST", help="values of k, and full")
    add_numbers(result, (("length", 4096, "bytes of a sample"), ("updates", 300, "of the model without Top-k")))
    result.add_argument(
        "--finetune", type=not_negative, default=0, metavar="M", help="updates more with each k (default: 0)"
    )
    result.add_argument(
        "--scratch", type=not_negative, default=0, metavar="M", help="updates of a new model with each k (default: 0)"
    )
    result.add_argument("--samples", type=positive, metavar="S", help="the first S of the test set (default: all)")
    result.add_argument(
        "--train", default="", metavar="OPTIONS", help=f"of fairseq-train, beside {MODEL} {TRAINING} --lr {RATE}"
    )
    return result


def run(options: argparse.Namespace) -> None:
    """
    Raises:
        OptionError: DIR was made with other options.
        FairseqElError: a training failed, or there is nothing to score.
    """
    results = Results(options)
    for k in tqdm(options.attention, disable=None):
        full = train(options, FULL, FULL, options.updates)
        results.measure(k, AS_IT_IS, full)
        if options.finetune:
            results.measure(k, TUNED, train(options, f"k-{k}-tuned", k, options.finetune, base=full))
        if options.scratch:
            name = FULL if (k, options.scratch) == (FULL, options.updates) else f"k-{k}-scratch"
            results.measure(k, SCRATCH, train(options, name, k, options.scratch))
    text = results.table("pipe")
    write_whole(options.out / "table.md", lambda path: path.write_text(text + "\n", "utf-8"), replace=True)
    write_line(f"{text}\n\ncommand: {options.command_line}")


class Results:
    """Perplexities that are known, by k and stage: ``DIR/results.json``."""

    def __init__(self, options: argparse.Namespace):
        self.options, self.file = options, options.out / "results.json"
        names = ("length", "updates", "finetune", "scratch", "samples", "train")
        settings = {"data": str(options.data), **{name: getattr(options, name) for name in names}}
        if options.out.exists() and not self.file.is_file() and any(options.out.iterdir()):
            raise OptionError(f"--out must be a new directory, or one that this program made; {options.out} is neither")
        kept = json.loads(self.file.read_text("utf-8")) if self.file.is_file() else {"settings": settings, "of": {}}
        differing = [name for name in settings if kept["settings"].get(name) != settings[name]]
        if differing:
            name = differing[0]
            raise OptionError(
                f"{self.file} was made with {name} {kept['settings'].get(name)!r}, this is {settings[name]!r}; choose "
                "another --out"
            )
        self.kept: Dict[str, Any] = kept
        options.out.mkdir(parents=True, exist_ok=True)
        self.save()

    def measure(self, k: str, stage: str, checkpoint: Path) -> None:
        """Scores the test set with a model, unless that is done."""
        of_k = self.kept["of"].setdefault(k, {})
        if stage not in of_k:
            of_k[stage] = bits_per_byte(checkpoint, k, self.options)
            self.save()

    def save(self) -> None:
        text = json.dumps(self.kept, indent=2)
        write_whole(self.file, lambda path: path.write_text(text, "utf-8"), replace=True)

    def table(self, style: str) -> str:
        rows = []
        for k in sorted(self.kept["of"], key=lambda name: math.inf if name == FULL else int(name)):
            row = {"k": k}
            for stage, (whole, second_half) in self.kept["of"][k].items():
                row[f"perplexity, {stage}"] = f"{2**whole:.4f}"
                row[f"bits per byte, {stage}"] = f"{whole:.4f}"
                row[f"of second halves, {stage}"] = f"{second_half:.4f}"
            rows.append(row)
        return table(rows, style)


def train(options: argparse.Namespace, name: str, k: str, updates: int, base: Optional[Path] = None) -> Path:
    """Gives a checkpoint, and trains it if it is not there: from ``base`` or anew, ``full`` without Top-k."""
    directory = options.out / name
    arguments = ["--task", "byte_language_modeling", *PLUGIN, "--tokens-per-sample", options.length]
    arguments += [*shlex.split(MODEL), *shlex.split(TRAINING), "--max-update", updates, "--total-num-update", updates]
    arguments += ["--lr", RATE_OF_TUNING if base else RATE, "--warmup-updates", updates // 10]
    arguments += ["--num-workers", 0, "--log-format", "json", "--log-interval", 10]
    arguments += ["--no-epoch-checkpoints", "--no-save-optimizer-state", "--disable-validation"]
    arguments += ["--arch", "transformer_lm"] if k == FULL else ["--arch", "topk_transformer_lm", "--topk-attention", k]
    arguments += shlex.split(options.train)
    if base:
        arguments += ["--finetune-from-model", base.resolve()]

    def make(unfinished: Path) -> None:
        command = [options.data, *arguments, "--save-dir", unfinished]
        run_program("fairseq_cli.train", command, unfinished / "train.txt", options.out / f"{name}.log")

    if not directory.exists():
        write_whole_directory(directory, make, PROGRAM)
    return directory / "checkpoint_last.pt"


def bits_per_byte(checkpoint: Path, k: str, options: argparse.Namespace) -> Tuple[float, float]:
    """Bits per byte of the test set, and of the second halves of its samples. Samples that are shorter are left out.

    Raises:
        FairseqElError: no sample has ``--length`` bytes.
    """
    overrides = {"data": str(options.data)}
    (model,), _, task = checkpoint_utils.load_model_ensemble_and_task([str(checkpoint)], arg_overrides=overrides)
    disable_topk_attention(model) if k == FULL else enable_topk_attention(model, int(k))
    task.load_dataset("test")
    dataset = task.dataset("test")
    whole = [index for index in range(len(dataset)) if dataset.size(index) == options.length]
    if not whole:
        raise FairseqElError(f"test must have at least one sample of {options.length} bytes; it has none")
    losses = torch.zeros(options.length, dtype=torch.float64)
    chosen = whole[: options.samples]
    for index in chosen:
        sample = dataset[index]
        with torch.no_grad():
            of_bytes = model.eval()(sample["source"].unsqueeze(0))[0][0].float().log_softmax(dim=-1)
        losses -= of_bytes.gather(1, sample["target"].unsqueeze(1)).squeeze(1).double() / len(chosen)
    bits = losses / math.log(2)
    return float(bits.mean()), float(bits[options.length // 2 :].mean())


def main(arguments: Arguments = None) -> int:
    """Args: ``arguments``: of the command line (default: those of this process)."""
    return run_benchmark(parser(), run, arguments)


if __name__ == "__main__":
    sys.exit(main())
