"""What ``fairseq-generate`` and ``fairseq-interactive`` wrote, by the number of the sentence in the data set."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import islice
from typing import Dict, List, Sequence

from fairseq_el.errors import FairseqElError
from fairseq_el.files import without_mark
from fairseq_el.scoring.agreement import Hypothesis
from fairseq_el.scoring.records import read_records

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
        last = max(max(known, default=-1) for known in (self.sources, self.references, self.hypotheses))
        missing = last + 1 - len(texts)  # the range may be as large as a damaged number
        if missing:
            shown = list(islice((number for number in range(last + 1) if number not in texts), _SHOWN))
            raise FairseqElError(
                f"the output of fairseq-generate must have a line for every sentence from 0 to {last}; {what} are "
                f"missing of {missing}: {_listed(shown, missing)}. Decode again without --skip-invalid-size-inputs-"
                "valid-test, and to the end; put outputs of several shards one after the other in one file"
            )
        return [texts[number] for number in range(last + 1)]


def read_generate_output(lines: Sequence[str], is_ended: bool = True) -> GenerateOutput:
    """Reads lines without their line ends.

    Args:
        is_ended: whether the last line has an end.

    Raises:
        FairseqElError: a sentence was decoded twice, or a line is cut off or damaged; with the number of the line.
    """
    output = GenerateOutput()
    texts: Dict[str, Dict[int, str]] = {"S": output.sources, "T": output.references, "H": {}, "D": output.hypotheses}
    before: Dict[str, int] = {}
    best: Dict[str, float] = {}
    for kind, sentence, score, text, line in read_records(lines, is_ended):
        if sentence in texts[kind] and (score is None or before[kind] != sentence):
            raise FairseqElError(
                f"line {line} has {kind}-{sentence} for the second time: the file must hold the output of one run. "
                "Score every run on its own"
            )
        if score is None or sentence not in texts[kind] or score > best[kind]:
            texts[kind][sentence] = without_mark(text)
            best[kind] = score or 0.0
        before[kind] = sentence
    with_tokens = texts["H"]
    if not output.hypotheses:
        output.hypotheses = with_tokens
    elif set(with_tokens) - set(output.hypotheses):
        undone = sorted(set(with_tokens) - set(output.hypotheses))
        raise FairseqElError(
            f"{len(undone)} hypotheses have a line H- but no line D-: {_listed(undone, len(undone))}. Was "
            "fairseq-generate stopped while it wrote? Decode again"
        )
    return output


def _listed(numbers: Sequence[int], count: int) -> str:
    more = f", ... ({count} in all)" if count > _SHOWN else ""
    return ", ".join(map(str, numbers[:_SHOWN])) + more


def read_hypotheses(lines: Sequence[str]) -> Dict[int, List[Hypothesis[str]]]:
    """Reads all hypotheses of every sentence, best first: the lines ``H-``.

    Raises:
        FairseqElError: as :func:`read_generate_output` does.
    """
    found: Dict[int, List[Hypothesis[str]]] = {}
    for record in read_records(lines):
        if record.kind == "H" and record.score is not None:
            found.setdefault(record.sentence, []).append(Hypothesis(record.text, record.score))
    return found
