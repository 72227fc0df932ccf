"""Measures how many sentences a card of a given memory decodes at once, and how fast.

    python benchmarks/card_limit.py DATA --path model.pt --method el --self-attention kv --memory 16GiB \\
        --batches 32,320,900,1150,1300 --src-len 1024 --tgt-len 70 --dtype fp16

Makes the table "In 16 GiB" of docs/benchmarks.md, one method a call. torch may take the memory less the overhead of a
process. Batches grow until one does not fit. On a CPU, memory is neither limited nor counted.
"""

from __future__ import annotations

import argparse
import gc
import sys
from typing import Any, Dict, Tuple

import torch
from common import Arguments, add_device, make_parser, numbers, run_benchmark, table

from fairseq_el.bench import Method, Settings
from fairseq_el.bench.programs import FairseqProgram
from fairseq_el.cli.options import device_of, positive, size, size_of_memory
from fairseq_el.cli.streams import write_line
from fairseq_el.dtypes import DTYPES
from fairseq_el.errors import OutOfMemoryError
from fairseq_el.measure import seconds_of
from fairseq_el.units import format_size

METHODS = ("stock-duplicated", "stock", "el", "shared-kv")  # the first: stock with a cross-attention cache per beam
_OOM = "out of memory"


def add_program(parser: Any, batches: Tuple[int, ...]) -> None:
    """Adds the options that :func:`load` reads. Args: ``batches``: the default."""
    parser.add_argument("data", metavar="DATA", help="directory that fairseq-preprocess wrote")
    parser.add_argument("--path", required=True, metavar="FILE", help="the checkpoint")
    parser.add_argument("-s", "--source-lang", metavar="LANG")
    parser.add_argument("-t", "--target-lang", metavar="LANG")
    parser.add_argument("--method", choices=METHODS, default="el", help="(default: %(default)s)")
    parser.add_argument("--self-attention", choices=["kv", "el"], help="--el-self-attention of el and shared-kv")
    parser.add_argument("--batches", type=numbers, default=batches, metavar="N[,N...]", help="sentences at once")
    parser.add_argument("--beam", type=positive, default=4, metavar="N", help="(default: %(default)s)")
    parser.add_argument("--src-len", type=positive, default=1024, metavar="N", help="(default: %(default)s)")
    parser.add_argument("--dtype", choices=list(DTYPES), default="fp32", help="(default: %(default)s)")
    add_device(parser)


def load(options: argparse.Namespace) -> FairseqProgram:
    """The program of ``fairseq-el bench`` for the method."""
    method = Method(options.method.partition("-duplicated")[0], options.dtype)
    settings = Settings(
        methods=(method,),
        baseline=method,
        data=options.data,
        path=options.path,
        source_lang=options.source_lang,
        target_lang=options.target_lang,
        beam=options.beam,
        self_attention=options.self_attention,
        device=options.device,
    )
    program = FairseqProgram(settings, method)
    if options.method == "stock-duplicated":
        program.model.set_beam_size = lambda beam_size: None
    return program


def prepare(program: FairseqProgram, batch: int, src_len: int) -> None:
    """Makes one batch of the first sentences, again from the first where there are fewer."""
    program.prepare([[program.sources.cut(i % len(program.sources), src_len) for i in range(batch)]])


def fits(program: FairseqProgram, batch: int, options: argparse.Namespace) -> Dict[str, str]:
    """Decodes one batch, and returns a row of the table: the best of the rounds, or that it did not fit."""
    row = {"batch": f"{batch:,}", "time": "did not fit", "sentences/s": "-", "live": "-", "held by torch": "-"}
    is_card = options.device == "cuda"
    gc.collect()
    if is_card:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    try:
        prepare(program, batch, options.src_len)
        seconds = min(seconds_of(lambda: program.decode(options.tgt_len), options.device) for _ in range(options.runs))
        row.update({"time": f"{seconds:.2f} s", "sentences/s": f"{batch / seconds:.1f}"})
    except OutOfMemoryError:  # of this package, which has decoded the batch in halves
        pass
    except RuntimeError as error:
        if _OOM not in str(error):
            raise
    if is_card:
        row["live"] = format_size(torch.cuda.max_memory_allocated())
        row["held by torch"] = format_size(torch.cuda.max_memory_reserved())
    return row


def measure(options: argparse.Namespace) -> None:
    options.device = device_of(options.device)
    if options.device == "cuda":
        total = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction(min((options.memory - options.overhead) / total, 1.0))
    program = load(options)
    rows = []
    for batch in sorted(options.batches):
        rows.append(fits(program, batch, options))
        if rows[-1]["sentences/s"] == "-":
            break
    write_line(f"{options.method}, {options.self_attention or 'default'} self-attention, {options.dtype}\n")
    write_line(table(rows, "github"))


def main(arguments: Arguments = None) -> int:
    """Args: ``arguments``: of the command line (default: those of this process)."""
    parser = make_parser("card_limit.py", __doc__)
    add_program(parser, (32, 64, 128, 256, 512, 1024, 2048))
    parser.add_argument("--tgt-len", type=positive, default=70, metavar="N", help="words (default: %(default)s)")
    parser.add_argument("--memory", type=size_of_memory, default=16 << 30, metavar="SIZE", help="(default: 16GiB)")
    parser.add_argument(
        "--overhead", type=size, default=600 << 20, metavar="SIZE", help="of a process, outside torch (default: 600MiB)"
    )
    parser.add_argument("--runs", type=positive, default=1, metavar="N", help="the best counts (default: %(default)s)")
    return run_benchmark(parser, measure, arguments)


if __name__ == "__main__":
    sys.exit(main())
