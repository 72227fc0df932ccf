"""Cuts tokenised text into windows of equal length, to have as many long inputs as a benchmark needs.

    python benchmarks/cut_windows.py TOKENS.txt --count 320 --length 1023 > test.src

All lines are joined; windows begin at even distances and overlap where the text is short.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text", metavar="TOKENS.txt", type=Path, help="tokens separated by spaces")
    parser.add_argument("--count", type=int, required=True, help="windows to cut")
    parser.add_argument("--length", type=int, required=True, help="tokens of each")
    args = parser.parse_args()
    tokens = args.text.read_text(encoding="utf-8").split()
    last = len(tokens) - args.length
    if last < 0 or args.count < 1 or args.length < 1:
        sys.exit(
            f"{sys.argv[0]}: error: can't cut {args.count} windows of {args.length} tokens from the "
            f"{len(tokens)} tokens of {args.text}: both must be at least 1, and the text as long as a window"
        )
    for i in range(args.count):
        begin = round(i * last / max(args.count - 1, 1))
        print(" ".join(tokens[begin : begin + args.length]))


if __name__ == "__main__":
    main()
