"""Hypotheses of a generator as text."""

from __future__ import annotations

from typing import Any, Dict, List

from fairseq import utils
from fairseq_cli.generate import get_symbols_to_strip_from_output
from torch import Tensor

from fairseq_el.jobs import Hypothesis, Result
from fairseq_el.text.loading import Loaded


def result_of(loaded: Loaded, number: int, source: Tensor, hypotheses: List[Dict[str, Any]]) -> Result:
    """The result of a line, with texts as fairseq-interactive prints them.

    Args:
        source: as the models have read it, without padding. *Shape:* ``(n)``.
        hypotheses: best first.
    """
    words = loaded.task.source_dictionary
    text = "" if words is None else words.string(source, loaded.cfg.common_eval.post_process)
    best = hypotheses[: loaded.cfg.generation.nbest]
    return Result(number, text, tuple(_hypothesis(loaded, each, text) for each in best))


def _hypothesis(loaded: Loaded, found: Dict[str, Any], source: str) -> Hypothesis:
    # Not by fairseq's post_process_prediction: it adds words to the dictionary, which the next line may be read with.
    symbols, cfg = loaded.task.target_dictionary, loaded.cfg
    ignored = get_symbols_to_strip_from_output(loaded.generator)
    words = symbols.string(found["tokens"].int().cpu(), cfg.common_eval.post_process, extra_symbols_to_ignore=ignored)
    alignment = found["alignment"] if cfg.generation.print_alignment else None
    if loaded.replacements is not None:
        assert alignment is not None  # else the command line is refused
        of_target = dict.fromkeys(range(len(words.split())), -1)  # the end of the source, where it is not known
        of_target.update({target: position for position, target in alignment})
        words = utils.replace_unk(words, source, of_target, loaded.replacements, symbols.unk_string())
    return Hypothesis(
        text=loaded.decode(words),
        words=words,
        score=float(found["score"]),
        positional_scores=tuple(found["positional_scores"].tolist()),
        alignment=None if alignment is None else tuple(alignment),
    )
