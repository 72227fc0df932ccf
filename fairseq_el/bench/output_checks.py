"""Checks of the outputs of programs. No times are reported of a program whose outputs are wrong."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import List, Optional, Sequence

from fairseq_el.bench.programs import ScoredOutput
from fairseq_el.errors import FairseqElError
from fairseq_el.scoring import Agreement, compare_hypotheses

SCORE_TOLERANCE = 1e-4
ROUNDING_FACTOR = 2.0  # of stock's own error in the same dtype
_ROUNDING_FLOOR = 1e-6  # below, errors are those of float32 sums
_SHOWN = 12  # tokens of an output, in messages

Outputs = Sequence[ScoredOutput]


@dataclass(frozen=True)
class ScoreError:
    """Root mean squares of the differences between a program's scores and those of stock in float32 for the same words.

    Attributes:
        per_word: of the scores of words; None if the program gives none.
        whole: of the sums of a sentence's scores, divided by its length; None if the program gives none.
    """

    per_word: Optional[float]
    whole: Optional[float]


def check_form(name: str, outputs: Outputs, tgt_len: int, vocab_size: int, eos: int, writes_eos: bool) -> None:
    """Checks that outputs have known words only, and the length that was asked for.

    Args:
        tgt_len: words without the eos, or 0 for any number.
        writes_eos: whether the program ends outputs of a forced length with an eos.

    Raises:
        FairseqElError: an output has an unknown word, another length, or an eos in the wrong place.
    """
    for number, output in enumerate(outputs):
        strange = [token for token in output.tokens if not 0 <= token < vocab_size]
        if strange:
            raise FairseqElError(f"{name}: sentence {number} has ids {strange[:_SHOWN]}; there are {vocab_size} words")
        expected = tgt_len + 1 if writes_eos else tgt_len
        if tgt_len and len(output.tokens) != expected:
            raise FairseqElError(
                f"{name}: sentence {number} has {len(output.tokens)} tokens; {expected} were asked for: "
                f"{_shown(output.tokens)}"
            )
        if tgt_len and (eos in output.tokens[:-1] or (output.tokens[-1] == eos) != writes_eos):
            raise FairseqElError(f"{name}: sentence {number} has an eos in the wrong place: {_shown(output.tokens)}")


def compare(mine: Outputs, stock: Outputs, eos: int) -> Agreement[List[int]]:
    """Compares outputs token by token, but for a last eos: CTranslate2 writes none at the longest length.

    Raises:
        FairseqElError: the numbers of outputs differ.
    """
    if len(mine) != len(stock):
        raise FairseqElError(f"{len(mine)} outputs can't be compared with {len(stock)}")
    one, other = ({number: [output] for number, output in enumerate(outputs)} for outputs in (mine, stock))
    return compare_hypotheses(one, other, optional_end=eos)


def require_agreement(
    name: str, mine: Outputs, stock: Outputs, agreement: Agreement[List[int]], score_tolerance: float = SCORE_TOLERANCE
) -> None:
    """Checks that outputs and scores are stock's.

    Raises:
        FairseqElError: an output differs from stock's, or a score by more than the tolerance. Says how many, and the
            first one.
    """
    if agreement.differing:
        first = agreement.differing[0]
        raise FairseqElError(
            f"{name}: {len(agreement.differing)} of {agreement.sentences} outputs differ from stock's, so no times "
            f"are reported. The first is sentence {first}:\n"
            f"  stock {_shown(stock[first].tokens)} score {stock[first].score}\n"
            f"  here  {_shown(mine[first].tokens)} score {mine[first].score}"
        )
    if not agreement.largest_gap <= score_tolerance:
        raise FairseqElError(
            f"{name}: outputs are stock's, but a score differs by {agreement.largest_gap:.2g}, and "
            f"{score_tolerance:g} is allowed, so no times are reported"
        )


def score_error(outputs: Outputs, reference: Sequence[Sequence[float]], lenpen: float) -> ScoreError:
    """Compares the scores of outputs with those of stock in float32.

    Args:
        reference: stock's score of each word of each output.
    """
    of_words: List[float] = []
    of_wholes: List[float] = []
    for output, scores in zip(outputs, reference):
        if output.word_scores is not None:
            of_words += [mine - theirs for mine, theirs in zip(output.word_scores, scores)]
        if output.score is not None:
            length = len(output.tokens)
            of_wholes.append(output.score * length**lenpen / length - sum(scores) / length)
    return ScoreError(_root_mean_square(of_words), _root_mean_square(of_wholes))


def require_rounding(name: str, mine: ScoreError, stock: ScoreError) -> None:
    """Checks that scores are about as far off as stock's in the same dtype.

    Raises:
        FairseqElError: they are further off than twice as much.
    """
    assert mine.per_word is not None and stock.per_word is not None
    allowed = max(ROUNDING_FACTOR * stock.per_word, _ROUNDING_FLOOR)
    if not mine.per_word <= allowed:
        raise FairseqElError(
            f"{name}: scores of words are off by {mine.per_word:.3g} (root mean square, from stock in float32), "
            f"stock's in this dtype by {stock.per_word:.3g}, and at most {ROUNDING_FACTOR:g} times as much is allowed, "
            "so no times are reported"
        )


def _shown(tokens: Sequence[int]) -> str:
    more = f" ... ({len(tokens)})" if len(tokens) > _SHOWN else ""
    return " ".join(map(str, tokens[:_SHOWN])) + more


def _root_mean_square(values: Sequence[float]) -> Optional[float]:
    return math.sqrt(sum(value * value for value in values) / len(values)) if values else None
