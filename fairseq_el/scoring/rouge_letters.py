"""What rouge-score's tokeniser drops: all letters but a to z, and all digits but 0 to 9."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from typing import Optional, Sequence

_KEPT = re.compile("[a-z0-9]")
_MUCH = 0.01  # of the letters; English text has fewer that are dropped, German with its umlauts more
_SHOWN = 3  # scripts
_NAMES = {"Latin": "Latin letters with marks", "Cjk": "Chinese characters"}


class _Letters:
    """Of some texts, how many letters and digits are kept, how many of each script dropped, and texts that lose all."""

    def __init__(self, texts: Sequence[str]):
        self.count = len(texts)
        self.kept = self.lost_whole = 0
        self.dropped: Counter[str] = Counter()
        for text in texts:
            kept, dropped = 0, 0
            for letter, count in Counter(text.lower()).items():
                if _KEPT.match(letter):
                    kept += count
                elif letter.isalnum():
                    dropped += count
                    self.dropped[_script(letter)] += count
            self.kept += kept
            self.lost_whole += dropped > 0 and not kept

    @property
    def share(self) -> float:
        dropped = sum(self.dropped.values())
        return dropped / max(dropped + self.kept, 1)


def warn_of_dropped_letters(hypotheses: Sequence[str], references: Sequence[Sequence[str]]) -> Optional[str]:
    """A warning that says how many letters ROUGE does not see, and of which scripts; None if they are few."""
    mine, theirs = _Letters(hypotheses), _Letters([text for texts in references for text in texts])
    if max(mine.share, theirs.share) < _MUCH and not mine.lost_whole + theirs.lost_whole:
        return None
    scripts = ", ".join(name for name, _ in (mine.dropped + theirs.dropped).most_common(_SHOWN))
    return (
        "ROUGE: rouge-score's tokeniser drops letters and digits other than a to z and 0 to 9, here "
        f"{100 * mine.share:.1f} % of those of hypotheses and {100 * theirs.share:.1f} % of those of references "
        f"({scripts}). {mine.lost_whole} of {mine.count} hypotheses and {theirs.lost_whole} of {theirs.count} "
        "references have no others, and score 0. BLEU and chrF see all letters"
    )


def _script(letter: str) -> str:
    """The first word of the name of a character, such as Cyrillic, or what a reader calls it."""
    name = unicodedata.name(letter, "unknown").split()[0].capitalize()
    return _NAMES.get(name, name)
