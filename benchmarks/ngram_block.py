"""Times n-gram blocking: stock fairseq's, word by word in Python, and this package's, all hypotheses at once.

    python benchmarks/ngram_block.py [--rows 1280] [--length 141] [--vocab 50264] [--ngram 3] [--runs 5]

Makes the table of "How much does blocking n-grams cost?" in docs/benchmarks.md. Stock's is given the words written so
far, as this package's is (in a search on a CPU it is given padding too, and blocks nothing). Both must give the same
scores, or nothing is timed. Runs take turns; medians are printed.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from typing import Callable

import torch
from common import Arguments, add_numbers, make_parser, run_benchmark
from fairseq.ngram_repeat_block import NGramRepeatBlock
from tabulate import tabulate

from fairseq_el.cli.streams import write_line
from fairseq_el.errors import FairseqElError
from fairseq_el.measure import seconds_of
from fairseq_el.ops import block_repeated_ngrams


def hypotheses(rows: int, length: int, vocab: int, ngram: int) -> torch.Tensor:
    """Random words that end as they have begun somewhere before, as a repetitive summary does."""
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(4, vocab, (rows, length), generator=generator)
    starts = torch.randint(1, length - 2 * ngram, (rows, 1), generator=generator)
    repeated = starts + torch.arange(ngram - 1)
    tokens[:, length - ngram + 1 :] = tokens.gather(1, repeated)
    tokens[:, 0] = 2
    return tokens


def seconds(block: Callable[[torch.Tensor], torch.Tensor], scores: torch.Tensor) -> float:
    mine = scores.clone()
    return seconds_of(lambda: block(mine))


def measure(args: argparse.Namespace) -> None:
    tokens = hypotheses(args.rows, args.length, args.vocab, args.ngram)
    scores = torch.randn(args.rows, args.vocab, generator=torch.Generator().manual_seed(2))
    stock = NGramRepeatBlock(args.ngram, use_extension=False)
    methods = {
        "stock": lambda mine: stock(tokens, mine, args.rows, 1, args.length - 1),
        "fairseq_el": lambda mine: block_repeated_ngrams(mine, tokens, args.ngram),
    }
    results = [block(scores.clone()) for block in methods.values()]
    if not torch.equal(*results):
        raise FairseqElError(f"the two differ in {int((results[0] != results[1]).sum())} scores, so nothing is timed")
    blocked = int(results[0].isinf().sum())
    times: dict[str, list[float]] = {name: [] for name in methods}
    for _ in range(args.runs):
        for name, block in methods.items():
            times[name].append(seconds(block, scores))
    ratio = statistics.median(theirs / mine for theirs, mine in zip(times["stock"], times["fairseq_el"]))
    rows = [[name, *(f"{1000 * f(t):.2f} ms" for f in (statistics.median, min, max))] for name, t in times.items()]
    write_line(tabulate(rows, ["", "median", "min", "max"], disable_numparse=True, colalign=("left", *["right"] * 3)))
    write_line(
        f"\n{args.rows} hypotheses of {args.length} tokens, {args.vocab} words, n = {args.ngram}, {blocked} scores "
        f"blocked by both; {args.runs} runs in turn, {torch.get_num_threads()} threads, torch {torch.__version__}.\n"
        f"fairseq_el is {ratio:.0f} times as fast."
    )


def main(arguments: Arguments = None) -> int:
    """Args: ``arguments``: of the command line (default: those of this process)."""
    parser = make_parser("ngram_block.py", __doc__)
    rows = ("rows", 1280, "hypotheses")
    lengths = (("length", 141, "tokens of each"), ("vocab", 50264, "words"), ("ngram", 3, "n"), ("runs", 5, "rounds"))
    add_numbers(parser, [rows, *lengths])
    return run_benchmark(parser, measure, arguments)


if __name__ == "__main__":
    sys.exit(main())
