"""The lines that an output has for a result."""

from __future__ import annotations

import json
from typing import Tuple

from fairseq_el.jobs.result import Result

FORMATS: Tuple[str, ...] = ("text", "jsonl", "fairseq")


def formatted(result: Result, name: str) -> str:
    """The lines of a result, each with its end.

    Args:
        name: one of ``FORMATS``.
    """
    if name == "jsonl":
        return json.dumps(result.to_json(), ensure_ascii=False) + "\n"
    best = result.hypotheses[0].text if result.hypotheses else ""
    return (best if name == "text" else f"D-{result.number}\t{best}") + "\n"
