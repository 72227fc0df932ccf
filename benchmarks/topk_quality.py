r"""Measures what Top-k costs in quality: decodes and scores a test set with every k of a list.

    python benchmarks/topk_quality.py DATA --out DIR --path model.pt [--attention LIST] [--ffn LIST] \
        [--finetune N] [any option of fairseq-generate]
    python benchmarks/topk_quality.py DATA --out DIR --scratch N --train "--arch transformer ..." [...]

Makes the tables of "What does Top-k cost in quality?" in docs/benchmarks.md. DATA is a directory of
fairseq-preprocess, for the task translation. Every k has two or three runs of its own: its model's training, if any;
fairseq-generate; fairseq-el score. `full` is the ordinary model. A k of --attention is for all three kinds of
attention, one of --ffn for all feed-forward layers, never both at a time. What is decoded::

  as it is      the checkpoint of --path, which has been trained without Top-k
  --finetune N  and the checkpoint after N more updates with that k, or (full) without Top-k
  --scratch N   a new model after N updates with that k

Trainings have the same data, seed, learning rate and updates; the rate rises for a tenth of the updates and falls to
0 by the last. DIR/results.json keeps what is finished, so the same command goes on where it was stopped, and one with
more values of k adds to the tables. Outputs and trained models stay in DIR too.
"""

from __future__ import annotations

import argparse
import json
import re
import shlex
import sys
from pathlib import Path
from typing import Any, Optional

from fairseq.models import ARCH_MODEL_REGISTRY
from tabulate import tabulate
from tqdm import tqdm

from fairseq_el.cli.options import positive
from fairseq_el.conversion import load_checkpoint, settings_of
from fairseq_el.errors import FairseqElError, OptionError
from fairseq_el.files import read_lines, staging_directory, write_whole, write_whole_directory
from fairseq_el.scoring import compare_hypotheses, read_hypotheses
from fairseq_el.subprocesses import run_program

PLUGIN = ["--user-dir", str(Path(__file__).resolve().parent.parent / "fairseq_el")]
FULL = "full"
PARTS = ("attention", "ffn")
AS_IT_IS, FINE_TUNED, FROM_SCRATCH = "as it is", "fine-tuned", "from scratch"
TRAINING = (
    "--criterion label_smoothed_cross_entropy --label-smoothing 0.1 --optimizer adam --adam-betas (0.9,0.98) "
    "--clip-norm 1.0 --lr 0.0003 --lr-scheduler polynomial_decay --max-tokens 4096 --seed 1"
)


def choices(text: str) -> list[str]:
    """``"2,8,full"`` to its parts."""
    names = text.split(",")
    for name in names:
        if name != FULL and not (name.isdigit() and int(name) > 0):
            raise argparse.ArgumentTypeError(f"must be numbers from 1 on, or {FULL}, with commas; got {name!r}")
    return names


def topk_options(variant: str) -> list[str]:
    """``"ffn 64"`` to fairseq's options for it."""
    return [] if variant == FULL else [f"--topk-{variant.split()[0]}", variant.split()[1]]


def model_options(path: str) -> list[str]:
    """The options of fairseq-train that make a model of a checkpoint's shape, with its dropout."""
    settings = settings_of(load_checkpoint(path, "--path"))
    if settings.arch.startswith("topk_"):
        raise OptionError(f"--path must be a model without Top-k, to compare it with; {path} is a {settings.arch}")
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    ARCH_MODEL_REGISTRY[settings.arch].add_args(parser)
    options = ["--arch", settings.arch]
    for action in parser._actions:
        value = getattr(settings, action.dest, None)
        if action.nargs == 0:  # a switch
            options += action.option_strings[:1] if value is action.const else []
        elif value is not None:
            text = ",".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
            options.append(f"{action.option_strings[0]}={text}")
    return options


def earlier(out: Path, file: Path) -> dict[str, Any]:
    """Reads the results of an earlier call; other directories than its own and new ones are refused."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return {}
    try:
        kept = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError):
        kept = None
    if not isinstance(kept, dict) or not {"settings", "results"} <= kept.keys():
        raise OptionError(f"--out must be a new directory, or have the results.json of an earlier call; {out} has none")
    return kept


class Quality:
    """The variants, and what they gave: ``results[variant][stage]``."""

    def __init__(self, args: argparse.Namespace, decoding: list[str]):
        self.args, self.decoding, self.out = args, decoding, Path(args.out)
        self.file = self.out / "results.json"
        kept = earlier(self.out, self.file)
        self.out.mkdir(parents=True, exist_ok=True)
        self.results: dict[str, dict[str, Any]] = kept.get("results", {})
        self.settings = {"data": args.data, "path": args.path, "decoding": decoding, "metrics": args.metrics}
        if args.finetune or args.scratch:
            self.settings.update(updates=args.finetune or args.scratch, train=args.train)
        for name, value in kept.get("settings", {}).items():
            if self.settings.setdefault(name, value) != value:
                raise OptionError(
                    f"{self.file} was made with {name} {value!r}, this is {self.settings[name]!r}; choose another --out"
                )
        self.save()  # before a training is finished that the next call would take for its own

    def measure(self, variant: str, stage: str) -> None:
        """Trains, decodes and scores one k, unless that is done."""
        if stage in self.results.get(variant, {}):
            return
        name = f"{variant} {stage}".replace(" ", "-")
        checkpoint, found = self.args.path, {}
        if stage != AS_IT_IS:
            trained = self.out / name
            if not trained.exists():
                write_whole_directory(
                    trained, lambda directory: self.train(variant, directory), "benchmarks/topk_quality.py"
                )
            checkpoint, found["valid_loss"] = trained / "checkpoint_last.pt", valid_losses(trained / "train.txt")
        output, scored, log = (self.out / f"{name}.{kind}" for kind in ("txt", "scores", "log"))
        options = ["--path", checkpoint, *PLUGIN, "--task", "el_translation", *topk_options(variant)]
        options += ["--required-batch-size-multiple", "1"]  # or fairseq 0.12.3 drops the last sentences
        run_program("fairseq_cli.generate", [self.args.data, *options, *self.decoding], output, log)
        scoring = ["score", output, "--format", "fairseq", "--metrics", self.args.metrics, "--json"]
        run_program("fairseq_el.cli", scoring, scored, self.out / "score.log")
        found["scores"] = json.loads(scored.read_text("utf-8"))["scores"]
        self.results.setdefault(variant, {})[stage] = found
        self.save()

    def save(self) -> None:
        text = json.dumps({"settings": self.settings, "results": self.results}, indent=2)
        write_whole(self.file, lambda unfinished: unfinished.write_text(text, "utf-8"), replace=True)

    def train(self, variant: str, directory: Path) -> None:
        """Leaves ``checkpoint_last.pt`` and ``train.txt``, what fairseq-train has said."""
        updates = self.args.finetune or self.args.scratch
        options = [*shlex.split(TRAINING), "--warmup-updates", updates // 10, "--total-num-update", updates]
        options += [*(model_options(self.args.path) if self.args.path else []), *shlex.split(self.args.train)]
        if variant != FULL:
            arch = max(i for i, option in enumerate(options) if option == "--arch") + 1
            options[arch] = "topk_" + options[arch]
        if self.args.path:
            options += ["--finetune-from-model", Path(self.args.path).resolve()]
        options += ["--task", "translation", *topk_options(variant), *PLUGIN, "--max-update", updates]
        options += ["--save-dir", directory, "--no-epoch-checkpoints", "--no-save-optimizer-state"]
        options += ["--num-workers", "0", "--log-format", "json"]
        said, log = directory / "train.txt", self.out / "train.log"
        run_program("fairseq_cli.train", [self.args.data, *options], said, log)
        said.write_text(said.read_text("utf-8") + log.read_text("utf-8"), "utf-8")  # fairseqs differ in where they log

    def identical(self, variant: str, stage: str) -> Optional[str]:
        """The number of hypotheses that are those of the ordinary model at the same stage."""
        if variant == FULL or not {variant, FULL} <= {name for name, stages in self.results.items() if stage in stages}:
            return None
        files = [self.out / f"{name} {stage}.txt".replace(" ", "-") for name in (variant, FULL)]
        mine, theirs = (read_hypotheses(read_lines(file, "output").lines) for file in files)
        agreement = compare_hypotheses(mine, theirs)
        return f"{agreement.num_identical} of {agreement.sentences}"

    def table(self, part: str) -> str:
        """The table of all that is finished, in Markdown."""
        variants = [variant for variant in self.results if variant.startswith(part)]
        rows = []
        for variant in [*sorted(variants, key=lambda variant: int(variant.split()[1])), FULL]:
            row: dict[str, Optional[str]] = {f"k of {part}": variant.split()[-1]}
            for stage, found in self.results.get(variant, {}).items():
                for name, score in found["scores"].items():
                    row[f"{stage}: {name}"] = f"{score['value']:.2f}"
                if stage == AS_IT_IS:
                    row["identical to full"] = self.identical(variant, stage)
                else:
                    row["valid loss"] = found["valid_loss"][-1][1]
            rows.append(row)
        columns = list(dict.fromkeys(column for row in rows for column in row))
        body = [[row.get(column) for column in columns] for row in rows]
        return tabulate(body, headers=columns, tablefmt="pipe", disable_numparse=True, missingval="")

    def tables(self) -> str:
        """Both, and how scores were made."""
        parts = [part for part in PARTS if any(variant.startswith(part) for variant in self.results)]
        names: dict[str, dict[str, None]] = {}  # by signature
        for found in (found for stages in self.results.values() for found in stages.values()):
            for name, score in found["scores"].items():
                names.setdefault(score["signature"], {})[name] = None
        made = [f"{', '.join(scores)}: {signature}" for signature, scores in names.items()]
        return "\n\n".join([*(self.table(part) for part in parts or PARTS[:1]), *made]) + "\n"


def valid_losses(log: Path) -> list[tuple[int, str]]:
    """Update and loss, of every validation."""
    lines = [json.loads(text) for text in re.findall(r"\{.*\"valid_loss\".*\}", log.read_text("utf-8"))]
    return [(int(line["valid_num_updates"]), line["valid_loss"]) for line in lines]


def parse() -> tuple[argparse.Namespace, list[str]]:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        usage=argparse.SUPPRESS,
        allow_abbrev=False,
    )
    parser.add_argument("data", metavar="DATA", help="has a test set, and to train with, train and valid")
    parser.add_argument("--out", required=True, metavar="DIR", help="for results.json, table.md, outputs and models")
    parser.add_argument("--path", metavar="FILE", help="checkpoint of a Transformer or BART with encoder and decoder")
    parser.add_argument(
        "--attention", type=choices, default=[], metavar="LIST", help="values of k and full, such as 2,8,32,full"
    )
    parser.add_argument("--ffn", type=choices, default=[], metavar="LIST", help="the same for feed-forward layers")
    parser.add_argument(
        "--finetune", type=positive, default=0, metavar="N", help="updates, from the checkpoint of --path"
    )
    parser.add_argument("--scratch", type=positive, default=0, metavar="N", help="updates, from a new model")
    parser.add_argument(
        "--train",
        default="",
        metavar="OPTIONS",
        help=f"more options of fairseq-train in one argument; a new model needs --arch (defaults: {TRAINING})",
    )
    parser.add_argument("--metrics", default="bleu", help="of fairseq-el score: bleu,chrf,rouge (default: %(default)s)")
    args, decoding = parser.parse_known_args()
    if not args.attention and not args.ffn:
        parser.error("--attention LIST or --ffn LIST is needed")
    if bool(args.path) == bool(args.scratch):
        parser.error("either --path FILE or --scratch N is needed, and not both: what is decoded")
    if args.finetune and args.scratch:
        parser.error("--finetune trains the checkpoint of --path; it does not go with --scratch")
    if args.scratch and "--arch" not in shlex.split(args.train):
        parser.error('--scratch needs an architecture: --train "--arch transformer ..."')
    return args, decoding


def main() -> None:
    args, decoding = parse()
    variants = [FULL if k == FULL else f"{part} {k}" for part in PARTS for k in getattr(args, part)]
    stages = [FROM_SCRATCH] if args.scratch else [AS_IT_IS, *([FINE_TUNED] if args.finetune else [])]
    try:
        quality = Quality(args, decoding)
        with staging_directory(quality.file.resolve(), alone=True):  # two processes would write to the same files
            bar = tqdm(
                [(variant, stage) for stage in stages for variant in dict.fromkeys(variants)],
                unit="variant",
                disable=None,
            )
            for variant, stage in bar:
                bar.set_description(f"{variant}, {stage}")
                quality.measure(variant, stage)
    except FairseqElError as error:
        sys.exit(f"{sys.argv[0]}: error: {error}")
    tables = quality.tables()
    write_whole(quality.out / "table.md", lambda unfinished: unfinished.write_text(tables, "utf-8"), replace=True)
    print(tables, end="")


if __name__ == "__main__":
    main()
