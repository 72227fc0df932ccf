"""Output of ``fairseq-generate`` and ``fairseq-interactive``: recognised, and read by the numbers of sentences."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import islice
from typing import Dict, List, Sequence

from fairseq_el.errors import FairseqElError, OptionError
from fairseq_el.files import without_mark
from fairseq_el.scoring.agreement import Hypothesis
from fairseq_el.scoring.records import is_message, letter_of, name_of, read_records, score_of, sentence_of

FORMATS = ("auto", "fairseq", "text")
_SHOWN = 5  # numbers of sentences in a message


def is_generate_output(lines: Sequence[str]) -> bool:
    """Says whether a file is the output of ``fairseq-generate``, and not plain text.

    It is, if hypotheses with scores are followed by the scores of their words, or if nothing else is in the file. A
    line of plain text may begin as a record does: ``T-34<TAB>``.

    Raises:
        OptionError: it may be either.
    """
    written = [line for line in lines if line.strip()]
    records = [line for line in written if letter_of(line) in ("S", "T", "H", "D")]
    if not records:
        return bool(written) and all(map(is_message, written))
    hypotheses = {sentence_of(line) for line in records if line[0] in "HD" and score_of(line) is not None}
    if any(sentence_of(line) in hypotheses for line in written if letter_of(line) == "P"):
        return True
    others = sum(letter_of(line) is None and not is_message(line) for line in written)
    if others and not hypotheses:
        return False
    if not others and (hypotheses or _are_of_one_run(records)):
        return True
    raise OptionError(
        f"FILE may be what fairseq-generate wrote or plain text: {len(records)} lines begin as fairseq's do (the first "
        f"with {name_of(records[0])}), {others} do not, and no hypothesis has its line P-. Give --format fairseq or "
        "--format text"
    )


def _are_of_one_run(records: Sequence[str]) -> bool:
    """Says whether lines of each kind have the numbers from 0 on."""
    numbers: Dict[str, List[str]] = {}
    for line in records:
        numbers.setdefault(line[0], []).append(sentence_of(line))
    return all(set(found) == set(map(str, range(len(found)))) for found in numbers.values())


@dataclass
class GenerateOutput:
    """Texts by sentence number; the best hypothesis of each sentence.

    Attributes:
        sources: texts of lines ``S-``.
        references: texts of lines ``T-``; empty where decoding had no targets.
        hypotheses: texts of lines ``D-``, or of ``H-`` in the output of programs that write no ``D-``.
    """

    sources: Dict[int, str] = field(default_factory=dict)
    references: Dict[int, str] = field(default_factory=dict)
    hypotheses: Dict[int, str] = field(default_factory=dict)

    def in_order(self, texts: Dict[int, str], what: str) -> List[str]:
        """Puts texts in the order of the data set, which must have no gaps.

        Args:
            texts: some of this output, by sentence number.
            what: names them in messages.

        Raises:
            FairseqElError: a sentence between the first and the last has no text, or there are no texts.
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
    """Reads sources, references and best hypotheses.

    Args:
        lines: of the file, without their line ends.
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
