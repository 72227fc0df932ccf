"""Measures how much of a decoder step the card is busy, and how many kernels the step launches.

    python benchmarks/step_launches.py DATA --path model.pt --method el --batches 1,16,128 --dtype fp16

Makes the table "A step" of docs/benchmarks.md ("On a card"), one method a call. A step's time is what many words take
more than few, divided by the difference. Launches and their times are from torch.profiler, which makes a step slower:
they are of runs of their own. On a CPU, operators are counted.
"""

from __future__ import annotations

import argparse
import sys
from typing import Any, Dict, List, Tuple

import torch
from card_limit import add_program, load, prepare
from common import Arguments, make_parser, run_benchmark, table
from torch.profiler import ProfilerActivity, profile

from fairseq_el.bench.programs import FairseqProgram
from fairseq_el.cli.options import device_of, positive
from fairseq_el.cli.streams import write_line
from fairseq_el.errors import OptionError
from fairseq_el.measure import seconds_of, spread, step_seconds


def launches(program: FairseqProgram, words: int, device: str) -> Tuple[int, float]:
    """The number of kernels, copies and fills of one run, and the seconds that they took together."""
    is_card = device == "cuda"
    with profile(activities=[ProfilerActivity.CUDA if is_card else ProfilerActivity.CPU]) as profiler:
        seconds_of(lambda: program.decode(words), device)
    events: List[Any] = [
        e for e in profiler.events() or [] if not is_card or e.device_type == torch.autograd.DeviceType.CUDA
    ]
    return len(events), sum(event.time_range.elapsed_us() for event in events) / 1e6


def step(program: FairseqProgram, batch: int, options: argparse.Namespace) -> Dict[str, str]:
    """One row of the table."""
    short, long = options.tgt_lens
    prepare(program, batch, options.src_len)
    program.decode(short)
    seconds: Dict[int, List[float]] = {short: [], long: []}
    for _ in range(options.runs):
        for words in seconds:
            seconds[words].append(seconds_of(lambda words=words: program.decode(words), options.device))
    found = spread(step_seconds(seconds))
    (few, busy_few), (many, busy_many) = (launches(program, words, options.device) for words in (short, long))
    steps = long - short
    return {
        "batch": f"{batch:,}",
        "a step": f"{1e3 * found.median:.2f} ms",
        "min to max": f"{1e3 * found.minimum:.2f} to {1e3 * found.maximum:.2f}",
        "launches": f"{(many - few) / steps:.0f}",
        "busy": f"{1e3 * (busy_many - busy_few) / steps:.2f} ms",
    }


def measure(options: argparse.Namespace) -> None:
    short, long = options.tgt_lens
    if short >= long:
        raise OptionError(f"--tgt-lens must be a smaller and a larger number of words; got {short},{long}")
    options.device = device_of(options.device)
    program = load(options)
    rows = [step(program, batch, options) for batch in options.batches]
    write_line(f"{options.method}, {options.self_attention or 'default'} self-attention, {options.dtype}\n")
    write_line(table(rows, "github"))


def _pair(text: str) -> Tuple[int, int]:
    numbers = [positive(part) for part in text.split(",")]
    if len(numbers) != 2:
        raise argparse.ArgumentTypeError(f"must be two numbers, as 16,64; got {text!r}")
    return numbers[0], numbers[1]


def main(arguments: Arguments = None) -> int:
    """Args: ``arguments``: of the command line (default: those of this process)."""
    parser = make_parser("step_launches.py", __doc__)
    add_program(parser, (1, 16, 128))
    parser.add_argument("--tgt-lens", type=_pair, default=(16, 64), metavar="N,M", help="words (default: 16,64)")
    parser.add_argument("--runs", type=positive, default=3, metavar="N", help="rounds (default: %(default)s)")
    return run_benchmark(parser, measure, arguments)


if __name__ == "__main__":
    sys.exit(main())
