"""What commands write to standard output."""

import sys


def write_line(text: str) -> None:
    sys.stdout.write(text + "\n")
