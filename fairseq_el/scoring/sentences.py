"""Sentences of a summary, which ROUGE-Lsum compares one by one."""

from __future__ import annotations

import re
from typing import Callable, Dict, List

# A full stop, question or exclamation mark, with closing quotes or brackets (also tokenised: " . "), and then a space.
_END = re.compile(r"(?<=[.!?])((?:\s?(?:''|[\"')\]]))*)\s+")


def by_punctuation(text: str) -> List[str]:
    """Splits after sentence-final punctuation. Abbreviations end sentences too: it knows no words."""
    return [part.strip() for part in _END.sub(r"\1\n", text).split("\n") if part.strip()]


def by_lines(text: str) -> List[str]:
    """``<q>``, as some programs write line ends in a line, or nothing: a text is then one sentence."""
    return [part.strip() for part in re.split(r"<q>|\n", text) if part.strip()]


SPLITS: Dict[str, Callable[[str], List[str]]] = {"punctuation": by_punctuation, "lines": by_lines}
