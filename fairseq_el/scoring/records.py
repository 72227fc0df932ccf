"""Records that ``fairseq-generate`` and ``fairseq-interactive`` print: a letter, the number of a sentence, and a text.

They come in the order of decoding, and numbers are those of the data set:

    S-17  source                T-17  reference
    H-17  score  hypothesis     D-17  score  hypothesis, detokenised     P-17  scores of its words     (--nbest times)

Lines of other kinds (``A-``, ``I-``, ``W-``, ...) and messages are skipped. A text may have newlines in it, which
byte-level BPE can write. It then goes on in the next lines, to the next record of the same sentence: ``P-`` comes after
every hypothesis, and nothing else comes between. Somebody may have sorted the lines, with ``sort`` or ``sort -V`` or by
the numbers. Then each line must be a record or a message: no text has had a newline in it.
"""

from __future__ import annotations

import re
from typing import Iterator, List, NamedTuple, Optional, Sequence

from fairseq_el.errors import FairseqElError

_RECORD = re.compile(r"([STHDPAIEWC])-(0|[1-9][0-9]*)(?:_[0-9]+)?\t(.*)", re.DOTALL)
_DAMAGED = re.compile(r"([STHDP]-[^\t]{0,30})\t")  # that is no record
_WORD_SCORE = r"-?(?:\d+\.\d+|inf|nan)"
_SCORES = re.compile(f"(?:{_WORD_SCORE}(?: {_WORD_SCORE})*)?")
# A progress bar of tqdm, or a message, in the middle of a line: standard output and error in one file.
_MIXED = re.compile(
    r"\r *\d+%\||(?:DEBUG|INFO|WARNING|ERROR|CRITICAL):fairseq[\w.]*:|\.py:\d+: \w*Warning: "
    r"|\d{4}-\d\d-\d\d \d\d:\d\d:\d\d \| [A-Z]+ \| \w"
)
_ANYWHERE = re.compile(r"[STHDP]-[0-9]+\t")
_MESSAGE = re.compile(
    r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d \| |(?:DEBUG|INFO|WARNING|ERROR|CRITICAL):\S*:|Generate \S+ with beam=|\| "
    r"|\S*:\d+: \w*Warning: |  \w*warn\w*\.warn\(|Traceback \(most recent call last\)|Namespace\(|\r? *\d+%\|"
)
_LONGEST_NUMBER = 12  # digits
_TEXTS = "STHD"
_NEXT = {"S": "TWCHD", "T": "HD", "H": "DP", "D": "P"}


class Record(NamedTuple):
    """One record with a text.

    Attributes:
        kind: S, T, H or D.
        sentence: number of the sentence in the data set.
        score: score of H and D; None for others.
        line: number of the line where it begins, from 1 on.
    """

    kind: str
    sentence: int
    score: Optional[float]
    text: str
    line: int


def is_message(line: str) -> bool:
    """Says whether a line is a message of fairseq, Python or tqdm."""
    return _MESSAGE.match(line) is not None


def letter_of(line: str) -> Optional[str]:
    """Returns the letter of the record that begins in a line, ``P`` only before numbers; None if no record begins."""
    match = _RECORD.match(line)
    if match is None or (match[1] == "P" and not _SCORES.fullmatch(match[3])):
        return None
    return match[1]


def sentence_of(line: str) -> str:
    """The number in a line that begins a record, as it was written."""
    match = _RECORD.match(line)
    assert match is not None
    return match[2]


def score_of(line: str) -> Optional[float]:
    """The score in a line that begins a record; None if there is none."""
    match = _RECORD.match(line)
    assert match is not None
    return _number(match[3].partition("\t")[0])


def read_records(lines: Sequence[str], is_ended: bool = True) -> Iterator[Record]:
    """Reads the records with a text.

    Args:
        lines: of the file, without their line ends.
        is_ended: whether the last line has an end.

    Raises:
        FairseqElError: a text is cut off, something is in the middle of it, or a number or score can't be read; with
            the number of the line.
    """
    # False if somebody has taken lines out, or sorted them.
    is_whole = any(letter_of(line) == "P" for line in lines) and not _are_sorted(lines)
    text: List[str] = []  # lines of the record that is not over, which began in line ``start``
    start = 0
    for number, line in enumerate(lines, start=1):
        _check(line, number)
        kind = letter_of(line)
        if kind is None:
            if not text:
                continue
            if _goes_on(line, number, text[0], is_whole):
                text.append(line)
                continue
        elif text:
            _check_next(text, line, number, is_whole)
        elif kind == "P" and is_whole:
            raise FairseqElError(
                f"line {number} has {name_of(line)}, and no hypothesis before it. The file must be as fairseq wrote it"
            )
        if text and (kind is not None or line.strip()):
            yield _record(text, start)
            text = []
        if kind is not None and kind in _TEXTS:
            text, start = [line], number
    if text and (is_whole or not is_ended):
        raise FairseqElError(
            f"line {len(lines)} is the last, and {name_of(text[0])} is not over: it has no "
            f"{'line P- after it' if is_whole else 'line end'}. Was fairseq stopped while it wrote? Decode again, or "
            "take the sentence out"
        )
    if text:
        yield _record(text, start)


def _are_sorted(lines: Sequence[str]) -> bool:
    """Says whether records are in an order in which fairseq never writes them: by letter, or by number and letter.

    A text with lines like records does not look so: scores follow all hypotheses here, or come before a source.
    """
    kinds = [(letter_of(line), line) for line in lines]
    if any(kind is None and line.strip() and not is_message(line) for kind, line in kinds):
        return False
    records = [(kind, int(sentence_of(line)[:_LONGEST_NUMBER])) for kind, line in kinds if kind is not None]
    scored = {number for kind, number in records if kind == "P"}
    if scored != {number for kind, number in records if kind in "HD"}:
        return False
    letters = [kind for kind, _ in records]
    if letters == sorted(letters):
        return len(scored) > 1
    numbers = [(number, kind) for kind, number in records]
    return numbers == sorted(numbers) and "S" in letters


def _check(line: str, number: int) -> None:
    """Refuses a damaged line.

    Raises:
        FairseqElError: the line is a record that is damaged.
    """
    if _MIXED.search(line) and _ANYWHERE.search(line):
        raise FairseqElError(
            f"line {number} has a progress bar or a message in the middle of what fairseq printed, and texts may be "
            "cut off. Keep what fairseq writes to standard error out of the file, and decode again"
        )
    match = _RECORD.match(line)
    if match is None:
        damaged = _DAMAGED.match(line)
        if damaged is not None:
            raise FairseqElError(
                f"line {number} begins with {damaged[1]!r}, which has no number of a sentence: it must be a whole "
                "number, from 0 on. The file is damaged; decode again. For plain text, give --format text"
            )
    elif len(match[2]) > _LONGEST_NUMBER:
        raise FairseqElError(
            f"line {number} has a sentence whose number has {len(match[2])} digits; numbers count the sentences of the "
            "data set, from 0 on. The file is damaged; decode again"
        )


def _goes_on(line: str, number: int, first: str, is_whole: bool) -> bool:
    """Says whether a line in which no record begins belongs to the text before it.

    Raises:
        FairseqElError: it may or may not.
    """
    if is_whole and is_message(line):
        raise FairseqElError(
            f"line {number} is a message in the middle of {name_of(first)}. Keep what fairseq writes to standard error "
            "out of the file, and decode again"
        )
    if not is_whole and line.strip() and not is_message(line):
        raise FairseqElError(
            f"line {number} may belong to {name_of(first)}, or may be a message; it can't be told without the lines P- "
            "after the hypotheses. Give all that fairseq wrote"
        )
    return is_whole


def _check_next(text: Sequence[str], line: str, number: int, is_whole: bool) -> None:
    """Refuses a record in the wrong place.

    Raises:
        FairseqElError: what comes next is not what fairseq prints after such a text.
    """
    kind, sentence = letter_of(line) or "", sentence_of(line)
    is_next = sentence == sentence_of(text[0]) and kind in _NEXT[text[0][0]]
    is_next_sentence = text[0][0] in "HD" and kind == "S" and len(text) == 1
    if is_whole and not (is_next or is_next_sentence):
        raise FairseqElError(
            f"line {number} begins {kind}-{sentence} before {name_of(text[0])} is over. The file must be as fairseq "
            "wrote it: one run, its lines in their order (or all sorted, if no text has a line end in it)"
        )


def _record(lines: List[str], number: int) -> Record:
    match = _RECORD.match(lines[0])
    assert match is not None
    kind, sentence = match[1], int(match[2])
    text = "\n".join([match[3], *lines[1:]])
    if kind in "ST":
        return Record(kind, sentence, None, text, number)
    score, tab, text = text.partition("\t")
    if not tab:
        raise FairseqElError(
            f"line {number} must be {kind}-{sentence}, a score and a text with tabs between them; the text is "
            "missing. Was fairseq-generate stopped while it wrote?"
        )
    value = _number(score)
    if value is None:
        raise FairseqElError(
            f"line {number} must have a number as the score of {kind}-{sentence}; it has {score[:30]!r}. The file is "
            "damaged; decode again"
        )
    return Record(kind, sentence, value, text, number)


def _number(text: str) -> Optional[float]:
    try:
        return float(text)
    except ValueError:
        return None


def name_of(line: str) -> str:
    """Returns letter and number of the record that begins in a line, such as ``H-17``."""
    return line.partition("\t")[0]
