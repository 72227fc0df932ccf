"""The lines that an output has for a result."""

from __future__ import annotations

import json
import math
from typing import Callable, Dict, List, Sequence, Tuple

import numpy as np

from fairseq_el.files import one_line
from fairseq_el.jobs.result import Hypothesis, Result

_NOTHING = Hypothesis(text="", words="", score=0.0, positional_scores=())


def formatted(result: Result, name: str) -> str:
    """The lines of a result, each with its end.

    Args:
        name: one of :data:`FORMATS`: ``text`` is the best hypothesis in one line; ``jsonl`` all hypotheses in one
            line; ``fairseq`` the lines ``S-``, ``H-``, ``D-``, ``P-`` and ``A-`` of fairseq-interactive. A result
            without hypothesis has an empty one in ``text`` and ``fairseq``.
    """
    return _WRITERS[name](result)


def _text(result: Result) -> str:
    best = result.hypotheses[0].text if result.hypotheses else ""
    return one_line(best) + "\n"


def _json(result: Result) -> str:
    hypotheses = []
    for each in result.hypotheses:
        found = {"text": each.text, "tokens": each.words, "score": each.score}
        found["positional_scores"] = each.positional_scores
        if each.alignment is not None:
            found["alignment"] = each.alignment
        hypotheses.append(found)
    values = {"id": result.number, "source": result.source, "hypotheses": hypotheses}
    if result.problem:
        values["problem"] = result.problem
    return json.dumps(values, ensure_ascii=False) + "\n"


def _fairseq(result: Result) -> str:
    number = result.number
    lines = [f"S-{number}\t{result.source}"]
    for each in result.hypotheses or (_NOTHING,):
        score = in_base_2([each.score])[0]
        lines += [f"H-{number}\t{score}\t{each.words}", f"D-{number}\t{score}\t{each.text}"]
        lines.append(f"P-{number}\t" + " ".join(f"{one:.4f}" for one in in_base_2(each.positional_scores)))
        if each.alignment is not None:
            lines.append(f"A-{number}\t" + " ".join(f"{source}-{target}" for source, target in each.alignment))
    return "".join(f"{line}\n" for line in lines)


def in_base_2(scores: Sequence[float]) -> List[float]:
    """Natural logarithms to base 2, rounded to float32 as fairseq rounds them."""
    converted: List[float] = (np.asarray(scores, dtype=np.float32) / np.float32(math.log(2))).tolist()
    return converted


_WRITERS: Dict[str, Callable[[Result], str]] = {"text": _text, "jsonl": _json, "fairseq": _fairseq}
FORMATS: Tuple[str, ...] = tuple(_WRITERS)
