"""Measures the tables of the paper on a card: the largest batches that fit, and sentences per second, against stock.

    benchmarks/card_tables.sh 16GiB

The card is cut to 16 GiB then; without a size all of it is used. With --short there are few words and batches, for a
few minutes. With --tiny models are tiny, also on a CPU, to see whether everything runs.

Makes "The paper's tables" of docs/benchmarks.md ("On a card"). Models have random weights and write as many words as
are asked for. All methods take turns in one process, each with its own copy of the weights; the limit of memory does
not count the copies of others. Rows are printed as they are measured. The largest batch is the one of fairseq-el plan,
made smaller by a tenth until it fits: the largest that fits may be up to a tenth larger, or as much as the plan errs.
"""

from __future__ import annotations

import argparse
import copy
import gc
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence, Tuple

import torch
from common import Arguments, add_device, make_parser, numbers, run_benchmark
from fairseq.data import Dictionary, indexed_dataset
from random_checkpoint import configuration, random_model

from fairseq_el.bench import Method, Settings
from fairseq_el.bench.comparison import with_fair_blocking
from fairseq_el.bench.programs import FairseqProgram
from fairseq_el.cli.options import device_of, positive, size, size_of_memory
from fairseq_el.cli.streams import write_line
from fairseq_el.dtypes import DTYPES
from fairseq_el.errors import OptionError, OutOfMemoryError
from fairseq_el.generation import has_ngram_extension, uses_graphs
from fairseq_el.measure import rotated, seconds_of, wait_for
from fairseq_el.planning import ModelShape, Workload, largest_batch, torch_attention
from fairseq_el.units import format_size

METHODS = {  # name: kind, self-attention, and how fairseq-el plan calls it
    "stock": ("stock", None, "stock"),
    "el": ("el", "kv", "kv"),
    "el/el": ("el", "el", "el"),
    "shared-kv": ("shared-kv", "kv", "kv"),
    "auto": ("auto", "kv", "kv"),
}
_LINES = 64  # of a data set; longer batches read them again
_HEADER = ("batch", "method", "time", "sentences/s", "of stock at its largest", "live", "held by torch")


@dataclass(frozen=True)
class Model:
    """A random model. Attributes: ``options``: of fairseq-train; ``vocab_size``: words beside fairseq's symbols."""

    options: Tuple[str, ...]
    vocab_size: int
    is_language_model: bool = False

    def tiny(self) -> Model:
        sides = ("decoder",) if self.is_language_model else ("encoder", "decoder")
        small: List[str] = []
        for side in sides:
            for name, value in (("embed-dim", 16), ("ffn-embed-dim", 24), ("layers", 2), ("attention-heads", 2)):
                small += [f"--{side}-{name}", str(value)]
        small += ["--decoder-input-dim", "16", "--decoder-output-dim", "16"] if self.is_language_model else []
        return replace(self, options=(*self.options, *small), vocab_size=40)


@dataclass(frozen=True)
class Row:
    """One table: a model and how it is decoded. Attributes: ``words``: that every hypothesis has."""

    name: str
    title: str
    model: str
    words: int
    src_len: int
    beam: int
    lenpen: float = 1.0
    ngram: int = 0
    groups: int = 0


_BART = ("--arch", "bart_large", "--share-all-embeddings", "--max-source-positions", "1024")
_GPT = ("--task", "language_modeling", "--share-decoder-input-output-embed", "--decoder-learned-pos", "--arch")
MODELS = {
    "BART-large": Model(_BART, 50_260),
    "Transformer": Model(("--arch", "transformer", "--share-all-embeddings"), 32_000),
    "GPT-2 small": Model((*_GPT, "transformer_lm_gpt"), 50_256, is_language_model=True),  # 12 layers, width 768
    "GPT-2 medium": Model((*_GPT, "transformer_lm_gpt2_small"), 50_256, is_language_model=True),  # 24 layers, 1,024
}
TABLES = (
    Row("cnndm", "CNN/DailyMail, beam 4", "BART-large", 140, 1024, 4, lenpen=2.0, ngram=3),
    Row("greedy", "CNN/DailyMail, greedy", "BART-large", 140, 1024, 1, ngram=3),
    Row("xsum", "XSum, beam 6", "BART-large", 60, 1024, 6, ngram=3),
    Row("diverse", "CNN/DailyMail, diverse beam search, 4 groups", "BART-large", 140, 1024, 4, ngram=3, groups=4),
    Row("squad", "SQuAD question generation, beam 4", "Transformer", 32, 512, 4),
    Row("gpt2", "GPT-2 small, continued prompts, beam 4", "GPT-2 small", 100, 512, 4),
    Row("gpt2-medium", "GPT-2 medium, continued prompts, beam 4", "GPT-2 medium", 100, 512, 4),
)


class Bench:
    """The methods of one table, in turn.

    Args:
        models: a copy of the model for each method.
        row: with the words, the lengths and the dtype that are measured.
    """

    def __init__(self, options: argparse.Namespace, row: Row, models: Dict[str, Any], data: Path):
        self._options, self._row, self._notes = options, row, []
        weights = sum(p.numel() * p.element_size() for p in next(iter(models.values())).parameters())
        self._others = weights * (len(models) - 1)
        self._weights = weights
        self.programs = {name: self._program(name, model, data) for name, model in models.items()}
        for note in dict.fromkeys(self._notes):
            write_line(f"{note}\n")
        self._shape = ModelShape(**next(iter(self.programs.values())).shape)
        self._stock: Optional[float] = None  # sentences per second at stock's largest batch

    def _program(self, name: str, model: Any, data: Path) -> FairseqProgram:
        options, row = self._options, self._row
        kind, self_attention, _ = METHODS[name]
        method = Method(kind, options.dtype)
        if hasattr(model, "set_beam_size"):  # stock does not where the beam is 1, and would keep that of the last table
            model.set_beam_size(row.beam)
        budget = "" if options.limit is None else f"{max((options.limit - self._weights) // 2, 0)}"
        settings = Settings(
            (method,), method, str(data), "random", beam=row.beam, lenpen=row.lenpen, device=options.device,
            no_repeat_ngram_size=row.ngram, diverse_beam_groups=row.groups, self_attention=self_attention,
            memory_budget=budget, src_lens=(row.src_len,),
        )  # fmt: skip
        return FairseqProgram(with_fair_blocking(settings, has_ngram_extension(), self._notes), method, model)

    def measure(self, deadline: float) -> None:
        """Prints a row for each method: of its largest batch, then of the batches that were asked for."""
        largest = self._largest(deadline) if self._options.limit is not None else {}
        for batch in sorted(self._options.batches, reverse=True):
            may_fit = [name for name in self.programs if batch <= 1.2 * largest.get(name, batch)]
            for name in self.programs:
                if name not in may_fit:
                    self._print(name, batch, None)
            self._measure_batch(batch, may_fit, deadline)

    def _measure_batch(self, batch: int, names: List[str], deadline: float) -> None:
        best = dict.fromkeys(names, float("inf"))
        for turn in range(self._options.runs):
            for name in rotated(list(best), turn) if best else []:
                if time.monotonic() > deadline:
                    return
                seconds = self._seconds(name, batch)
                if seconds is None:
                    del best[name]
                    self._print(name, batch, None)
                    continue
                best[name] = min(best[name], seconds)
                if turn == self._options.runs - 1:
                    self._print(name, batch, best[name])

    def _largest(self, deadline: float) -> Dict[str, int]:
        found: Dict[str, int] = {}
        for name in self.programs:  # stock comes first: the others are compared with it
            batch = min(self._planned(name), self._options.most)
            note = " (most tried)" if batch == self._options.most else " (largest)"
            while batch and time.monotonic() < deadline:
                seconds = self._seconds(name, batch)
                if seconds is not None:
                    found[name] = batch
                    self._print(name, batch, seconds, note)
                    break
                self._print(name, batch, None)
                batch, note = batch * 9 // 10, " (largest)"
        return found

    def _planned(self, name: str) -> int:
        options, row = self._options, self._row
        load = Workload(
            1, row.beam, row.src_len, row.words, options.dtype, 2048, device=options.device,
            torch_attention=torch_attention(options.device, options.dtype),
            backend="shared-kv" if METHODS[name][0] == "shared-kv" else "el",
        )  # fmt: skip
        planned_as = METHODS[name][2]
        if planned_as == "stock" and hasattr(self.programs[name].model, "set_beam_size"):
            planned_as = "stock-shared"
        return largest_batch(planned_as, self._shape, load, options.limit)

    def _seconds(self, name: str, batch: int) -> Optional[float]:
        """The time of one batch, or None if it does not fit."""
        program, device = self.programs[name], self._options.device
        self._limit_memory()
        try:
            sources = program.sources
            lines = [sources.cut(i % len(sources), self._row.src_len) for i in range(batch)]
            program.prepare([lines[:2] if program.continues_prompts else lines])  # prompts take stock many steps
            program.decode(2)  # to warm up
            program.prepare([lines])
            return seconds_of(lambda: program.decode(self._row.words), device)
        except OutOfMemoryError:  # of this package, which has decoded the batch in halves
            return None
        except RuntimeError as error:
            if "out of memory" not in str(error):
                raise
            return None
        finally:
            self._memory = (
                [f(device) - self._others for f in (torch.cuda.max_memory_allocated, torch.cuda.max_memory_reserved)]
                if device == "cuda"
                else []
            )
            program.prepare([])  # lets go of the batch and of what the generators keep

    def _limit_memory(self) -> None:
        gc.collect()
        if self._options.device != "cuda":
            return
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        if self._options.limit is not None:
            total = torch.cuda.get_device_properties(0).total_memory
            torch.cuda.set_per_process_memory_fraction(min((self._options.limit + self._others) / total, 1.0))

    def _print(self, name: str, batch: int, seconds: Optional[float], note: str = "") -> None:
        if seconds is None:
            print_row([f"{batch:,}", name, "did not fit", *["-"] * 4])
            return
        speed = batch / seconds
        if name == "stock" and self._stock is None:  # its largest batch is measured first
            self._stock = speed
        memory = [format_size(number) for number in self._memory] or ["-", "-"]
        ratio = f"{speed / self._stock:.2f}" if self._stock else "-"
        print_row([f"{batch:,}{note}", name, f"{seconds:.2f} s", f"{speed:.1f}", ratio, *memory])


def print_row(cells: Sequence[str]) -> None:
    """At once: a session that is cut off keeps what it has printed."""
    write_line("| " + " | ".join(cells) + " |")
    sys.stdout.flush()


def write_data(directory: Path, model: Model, src_len: int) -> Path:
    """Random lines as fairseq-preprocess writes them, and their dictionary."""
    directory.mkdir()
    words = Dictionary()
    for i in range(model.vocab_size):
        words.add_symbol(f"w{i}")
    generator = torch.Generator().manual_seed(1)
    length = src_len if model.is_language_model else src_len - 1
    lines = torch.randint(words.nspecial, len(words), (_LINES, length), generator=generator)
    languages = [""] if model.is_language_model else [".src", ".tgt"]
    for language in languages:
        words.save(str(directory / f"dict{language}.txt"))
        prefix = directory / ("test" if model.is_language_model else f"test.src-tgt{language}")
        builder = indexed_dataset.make_builder(f"{prefix}.bin", impl="mmap", vocab_size=len(words))
        for line in lines:
            builder.add_item(torch.cat([line, torch.tensor([words.eos()])]))
        builder.finalize(f"{prefix}.idx")
    return directory


def build(model: Model, data: Path, options: argparse.Namespace) -> Any:
    """The model on the device, in the dtype that is measured."""
    built = random_model(configuration([str(data), *model.options]))
    return built.to(DTYPES[options.dtype].torch_dtype).to(options.device).eval()


def measure(options: argparse.Namespace) -> None:
    options.device = device_of(options.device)
    options.limit = None
    if options.memory is not None or options.device == "cuda":
        card = torch.cuda.get_device_properties(0).total_memory if options.device == "cuda" else options.memory
        options.limit = min(options.memory or card, card) - options.overhead
        if options.limit <= 0:
            raise OptionError(f"--memory must be more than --overhead, {format_size(options.overhead)}")
    begin = time.monotonic()
    where = torch.cuda.get_device_name() if options.device == "cuda" else "CPU"
    limit = "no limit of memory" if options.limit is None else f"torch may take {format_size(options.limit)}"
    graphs = "with" if uses_graphs("auto", torch.device(options.device)) else "without"
    write_line(f"{where}, torch {torch.__version__}, {options.dtype}, {limit}; EL methods {graphs} CUDA graphs\n")
    with tempfile.TemporaryDirectory(prefix="fairseq-el-tables-") as scratch:
        asked = sorted(
            (row for row in TABLES if row.name in options.tables), key=lambda r: options.tables.index(r.name)
        )
        for name in dict.fromkeys(row.model for row in asked):
            model, rows = MODELS[name], [row for row in asked if row.model == name]
            if time.monotonic() - begin > options.seconds:
                break
            used = model.tiny() if options.tiny else model
            src_len = rows[0].src_len if not options.tiny else 12
            src_len = (
                max(src_len // options.fewer, 4) if model.is_language_model else src_len
            )  # stock reads word by word
            data = write_data(Path(scratch) / name.replace(" ", "-"), used, src_len)
            first = build(used, data, options)
            models = {method: copy.deepcopy(first) for method in options.methods}
            del first
            for row in rows:
                if time.monotonic() - begin > options.seconds:
                    break
                words = max(row.words // options.fewer, 4)
                print_table(options, replace(row, words=words, src_len=src_len), models, data, begin + options.seconds)
            del models
    wait_for(options.device)
    write_line(f"\n{time.monotonic() - begin:.0f} seconds")


def print_table(options: argparse.Namespace, row: Row, models: Dict[str, Any], data: Path, deadline: float) -> None:
    write_line(f"\n**{row.title}** ({row.model}, {row.src_len} tokens in, {row.words} words out)\n")
    bench = Bench(options, row, models, data)
    print_row(_HEADER)
    print_row(["---"] * len(_HEADER))
    bench.measure(deadline)


def _named(known: Sequence[str]) -> Any:
    def names(text: str) -> List[str]:
        given = text.split(",")
        wrong = [name for name in given if name not in known]
        if wrong or len(set(given)) < len(given):
            raise argparse.ArgumentTypeError(f"must be names out of {', '.join(known)}, each once; got {text!r}")
        return given

    return names


def main(arguments: Arguments = None) -> int:
    """Args: ``arguments``: of the command line (default: those of this process)."""
    parser = make_parser("card_tables.py", __doc__)
    tables = [row.name for row in TABLES]
    parser.add_argument(
        "--tables",
        type=_named(tables),
        default=tables,
        metavar="NAME[,NAME...]",
        help=f"in this order, those of one model together; of {', '.join(tables)} (default: all)",
    )
    parser.add_argument(
        "--methods", type=_named(list(METHODS)), default=list(METHODS), metavar="NAME[,NAME...]",
        help=f"of {', '.join(METHODS)} (default: all)",
    )  # fmt: skip
    parser.add_argument("--memory", type=size_of_memory, metavar="SIZE", help="of the card (default: all it has)")
    parser.add_argument(
        "--overhead", type=size, default=600 << 20, metavar="SIZE", help="of a process, outside torch (default: 600MiB)"
    )
    parser.add_argument(
        "--batches", type=numbers, default=(32, 128, 320), metavar="N[,N...]", help="beside the largest"
    )
    parser.add_argument("--most", type=positive, default=100_000, metavar="N", help="try no larger batch")
    parser.add_argument("--dtype", choices=list(DTYPES), default="fp16", help="(default: %(default)s)")
    parser.add_argument("--runs", type=positive, default=2, metavar="N", help="the best counts (default: %(default)s)")
    parser.add_argument(
        "--fewer", type=positive, default=1, metavar="N", help="write an N-th of the words, and cut prompts to it"
    )
    parser.add_argument(
        "--seconds", type=positive, default=100_000, metavar="N", help="begin nothing after so many seconds"
    )
    parser.add_argument("--tiny", action="store_true", help="tiny models of the same kinds, to see whether all runs")
    add_device(parser)
    return run_benchmark(parser, measure, arguments)


if __name__ == "__main__":
    sys.exit(main())
