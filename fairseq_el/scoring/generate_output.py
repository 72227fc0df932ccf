"""The output of ``fairseq-generate`` and ``fairseq-interactive``.

One line each, in the order of decoding, with the number of the sentence in the data set:

    S-17  source                T-17  reference
    H-17  score  hypothesis     D-17  score  hypothesis, detokenised       (--nbest times, best first)

and lines for programs (``P-``, ``A-``, ``I-``, ``W-``, ...) and people, which are skipped.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Dict, Iterable, List, NamedTuple, Sequence

from fairseq_el.errors import FairseqElError

_LINE = re.compile(r"([STHD])-(\d+)\t(.*)", re.DOTALL)
_SHOWN = 5


@dataclass
class GenerateOutput:
    """Texts by sentence number; of several hypotheses of a sentence, the best.

    Attributes:
        sources: lines ``S-``.
        references: lines ``T-``; empty where decoding had no targets.
        hypotheses: lines ``D-``, or ``H-`` in the output of programs that write no ``D-``.
    """

    sources: Dict[int, str] = field(default_factory=dict)
    references: Dict[int, str] = field(default_factory=dict)
    hypotheses: Dict[int, str] = field(default_factory=dict)

    def in_order(self, texts: Dict[int, str], what: str) -> List[str]:
        """Texts in the order of the data set, which must have no gaps.

        Raises:
            FairseqElError: some sentence between the first and the last has none, or there are none at all.
        """
        if not texts:
            raise FairseqElError(f"the output of fairseq-generate has no {what}: was it given --quiet?")
        count = max(max(known, default=-1) for known in (self.sources, self.references, self.hypotheses)) + 1
        missing = [number for number in range(count) if number not in texts]
        if missing:
            raise FairseqElError(
                f"the output of fairseq-generate must have a line for every sentence from 0 to {count - 1}; {what} are "
                f"missing of {len(missing)}: {_listed(missing)}. Decode again without --skip-invalid-size-inputs-valid-"
                "test, and to the end; outputs of several shards are to be given one after the other in one file"
            )
        return [texts[number] for number in range(count)]


def is_generate_output(lines: Sequence[str]) -> bool:
    """Whether a file is the output of ``fairseq-generate``, and not plain text."""
    return any(_LINE.match(line) for line in lines)


def read_generate_output(lines: Iterable[str]) -> GenerateOutput:
    """Reads lines without their line ends.

    Raises:
        FairseqElError: a sentence was decoded twice, or a line is cut off.
    """
    output = GenerateOutput()
    with_tokens: Dict[int, str] = {}
    for number, line in enumerate(lines, start=1):
        match = _LINE.match(line)
        if match is None:
            continue
        kind, sentence, rest = match[1], int(match[2]), match[3]
        if kind == "S":
            _add_once(output.sources, sentence, rest, f"S-{sentence}", number)
        elif kind == "T":
            _add_once(output.references, sentence, rest, f"T-{sentence}", number)
        else:
            _, tab, text = rest.partition("\t")
            if not tab:
                raise FairseqElError(
                    f"line {number} must be {kind}-{sentence}, a score and a text with tabs between them; the text is "
                    "missing. Was fairseq-generate stopped while it wrote?"
                )
            (with_tokens if kind == "H" else output.hypotheses).setdefault(sentence, text)  # the first is the best
    if not output.hypotheses:
        output.hypotheses = with_tokens
    elif len(output.hypotheses) < len(with_tokens):
        undone = sorted(set(with_tokens) - set(output.hypotheses))
        raise FairseqElError(
            f"{len(undone)} hypotheses have a line H- but no line D-: {_listed(undone)}. Was fairseq-generate stopped "
            "while it wrote? Decode again"
        )
    return output


def _add_once(texts: Dict[int, str], sentence: int, text: str, name: str, line: int) -> None:
    if sentence in texts:
        raise FairseqElError(
            f"line {line} has {name} for the second time: the file must hold the output of one run. Score every run on "
            "its own"
        )
    texts[sentence] = text


def _listed(numbers: Sequence[int]) -> str:
    more = f", ... ({len(numbers)} in all)" if len(numbers) > _SHOWN else ""
    return ", ".join(map(str, numbers[:_SHOWN])) + more


class Hypothesis(NamedTuple):
    """A line ``H-``: the words as the model has them, and the score as it was written."""

    tokens: str
    score: float


def read_hypotheses(lines: Iterable[str]) -> Dict[int, List[Hypothesis]]:
    """All hypotheses of every sentence, best first."""
    found: Dict[int, List[Hypothesis]] = {}
    for line in lines:
        match = _LINE.match(line)
        if match is not None and match[1] == "H":
            score, _, tokens = match[3].partition("\t")
            found.setdefault(int(match[2]), []).append(Hypothesis(tokens, float(score)))
    return found
