"""Sentences of a summary, which ROUGE-Lsum compares one by one."""

from __future__ import annotations

import re
from typing import Callable, Dict, List

from fairseq_el.files import one_line

# Line ends that models write in a line: Pegasus <n>, others <q>.
_MARK = re.compile(r"<[nq]>")
_LINE_END = re.compile(r"<[nq]>|\r\n|\r|\n")
# What closes a quotation or a bracket. In tokenised text there is a space before it (" . '' "); not before those that
# open quotations in some languages and close them in others: \u201c, \u2018, \u00ab and \u2039.
_CLOSING = r"(?:\s?(?:''|[\"')\]}\u201d\u2019\u00bb\u203a])|[\u201c\u2018\u00ab\u2039])"
_END = re.compile(rf"(?<=[.!?])({_CLOSING}*)\s+")


def by_punctuation(text: str) -> List[str]:
    """Splits after sentence-final punctuation, and at line ends. Abbreviations end sentences too: it knows no words."""
    return by_lines(_END.sub(r"\1\n", text))


def by_lines(text: str) -> List[str]:
    """Splits at line ends, also those that are written ``<q>`` or ``<n>``. Without any, a text is one sentence."""
    return [part.strip() for part in _LINE_END.split(text) if part.strip()]


def as_words(text: str) -> str:
    """A text with spaces for its line ends, however they are written."""
    return one_line(_MARK.sub(" ", text))


SPLITS: Dict[str, Callable[[str], List[str]]] = {"punctuation": by_punctuation, "lines": by_lines}
