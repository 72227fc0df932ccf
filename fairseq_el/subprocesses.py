"""Programs of fairseq and of this package, each in a process of its own."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any, List, Optional

from fairseq_el.errors import FairseqElError, shortened

_SHOWN = 3000  # characters from the end of the log of a program that failed


def run_program(module: str, arguments: List[Any], output: Path, log: Path, name: Optional[str] = None) -> None:
    """Runs ``python -m module``.

    Args:
        output: file for its standard output.
        log: file for its standard error.
        name: of the program in the message (default: ``module``).

    Raises:
        FairseqElError: the program failed; with its error, or the end of its log.
    """
    command = [sys.executable, "-m", module, *map(str, arguments)]
    with output.open("wb") as written, log.open("wb") as errors:
        status = subprocess.run(command, stdout=written, stderr=errors, check=False).returncode
    if status != 0:
        said = log.read_text("utf-8", errors="replace")[-_SHOWN:].strip()
        raise FairseqElError(f"{name or module} ended with status {status}{_reason(said)}")


def _reason(said: str) -> str:
    """Finds why a program ended in the end of what it wrote: its error, or the last line of its traceback."""
    own = re.search(r"^fairseq[-_]el: error: (.*)", said, re.M | re.S)
    usage = re.search(r"^\S+: error: (.*)\Z", said, re.M)  # argparse's, after all options
    if own is not None or usage is not None:
        return f": {(own or usage)[1]}"  # type: ignore[index]
    *before, last = said.split("\n")
    if any(line.startswith("Traceback ") for line in before):
        return f": {shortened(last)}. Run the program by itself, with the same options, to see where"
    return f"; its log ends with:\n{said}"
