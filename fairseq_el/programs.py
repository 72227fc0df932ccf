"""Running fairseq's programs and this package's, each in a process of its own."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any, List, Optional

from fairseq_el.errors import FairseqElError

_LAST = 3000  # characters of what a program that failed has said


def run_program(module: str, arguments: List[Any], output: Path, log: Path, name: Optional[str] = None) -> None:
    """Runs ``python -m module``.

    Args:
        output: file for what it writes to standard output.
        log: file for what it writes to standard error.
        name: of the run, for the message (default: ``module``).

    Raises:
        FairseqElError: it failed; with its last words.
    """
    command = [sys.executable, "-m", module, *map(str, arguments)]
    with output.open("wb") as written, log.open("wb") as errors:
        status = subprocess.run(command, stdout=written, stderr=errors, check=False).returncode
    if status != 0:
        last = log.read_text("utf-8", errors="replace")[-_LAST:].strip()
        own = re.search(r"^fairseq[-_]el: error: (.*)", last, re.M | re.S)  # which says all that is to be said
        if own is not None:
            raise FairseqElError(f"{name or module} ended with status {status}: {own[1]}")
        raise FairseqElError(f"{name or module} ended with status {status}; its last words:\n{last}")
