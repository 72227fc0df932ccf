"""Whether a file is what fairseq printed, or plain text."""

from __future__ import annotations

from typing import Dict, List, Sequence

from fairseq_el.errors import OptionError
from fairseq_el.scoring.records import is_message, kind_of, name_of, score_of, sentence_of

FORMATS = ("auto", "fairseq", "text")


def is_generate_output(lines: Sequence[str]) -> bool:
    """Whether a file is the output of ``fairseq-generate``, and not plain text.

    It is, if hypotheses with scores are followed by the scores of their words, or if nothing else is in the file. A
    line of plain text may begin as a record does: ``T-34<TAB>``.

    Raises:
        OptionError: it can't be told.
    """
    written = [line for line in lines if line.strip()]
    records = [line for line in written if kind_of(line) in ("S", "T", "H", "D")]
    if not records:
        return bool(written) and all(map(is_message, written))
    hypotheses = {sentence_of(line) for line in records if line[0] in "HD" and score_of(line) is not None}
    if any(sentence_of(line) in hypotheses for line in written if kind_of(line) == "P"):
        return True
    others = sum(kind_of(line) is None and not is_message(line) for line in written)
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
    """Whether lines of each kind have the numbers from 0 on."""
    numbers: Dict[str, List[str]] = {}
    for line in records:
        numbers.setdefault(line[0], []).append(sentence_of(line))
    return all(set(found) == set(map(str, range(len(found)))) for found in numbers.values())
