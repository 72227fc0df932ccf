"""Scores of a test set with their signatures, and BLEU and chrF by sacrebleu."""

from __future__ import annotations

import re
import socket
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence

import sacrebleu.metrics

from fairseq_el.errors import OptionError
from fairseq_el.files import one_line

METRICS = ("bleu", "chrf", "rouge")
_MARK = re.compile(r"<[nq]>")  # line ends that models write in a line: Pegasus <n>, others <q>
_PATIENCE = 30  # seconds that a download may stand still


@dataclass(frozen=True)
class Score:
    """Score of a whole test set, from 0 to 100.

    Attributes:
        low, high: ends of the interval that holds 95 % of bootstrap samples; None if no samples were drawn.
        signature: the settings that repeat the score, as sacrebleu writes them.
    """

    name: str
    value: float
    low: Optional[float]
    high: Optional[float]
    signature: str

    def as_dict(self) -> Dict[str, Any]:
        return asdict(self)


def make_bleu(tokenize: Optional[str], lowercase: bool) -> Any:
    """Makes sacrebleu's BLEU, with the files that its tokeniser needs.

    Args:
        tokenize: a tokeniser of sacrebleu; None for its own choice, ``13a``.

    Raises:
        OptionError: the tokeniser needs a package or a file that is not there, and can't be downloaded.
    """
    options: Dict[str, Any] = {} if tokenize is None else {"tokenize": tokenize}
    timeout = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_PATIENCE)  # sacrebleu downloads without one
    try:
        return sacrebleu.metrics.BLEU(lowercase=lowercase, **options)
    except (Exception, SystemExit) as error:  # sacrebleu raises many, and exits for some
        reason = " ".join(str(error).split())
        raise OptionError(f"--tokenize {tokenize} can't be used: {reason}. {_remedy(tokenize)}") from error
    finally:
        socket.setdefaulttimeout(timeout)


def _remedy(tokenize: Optional[str]) -> str:
    from sacrebleu.tokenizers import tokenizer_spm  # no earlier: it costs time

    model = tokenizer_spm.SPM_MODELS.get(tokenize or "")
    if model is None:
        return "Install what it names, or choose another tokeniser"
    model = tokenizer_spm.SPM_MODELS[model["signature"]]
    path = Path(tokenizer_spm.SACREBLEU_DIR, "models", Path(model["url"]).name)
    return f"Download {model['url']} where there is a network, and put it at {path}, or choose another tokeniser"


def score_bleu(
    hypotheses: Sequence[str],
    references: Sequence[Sequence[str]],
    tokenize: Optional[str],
    lowercase: bool,
    samples: int,
) -> List[Score]:
    """Computes corpus BLEU.

    Args:
        references: sets of references, each with one text for every hypothesis.
        tokenize: as for :func:`make_bleu`.
        samples: number of bootstrap samples, 0 for none. sacrebleu reads its seed from ``SACREBLEU_SEED``.
    """
    return [_sacrebleu(make_bleu(tokenize, lowercase), hypotheses, references, samples)]


def score_chrf(
    hypotheses: Sequence[str], references: Sequence[Sequence[str]], lowercase: bool, samples: int
) -> List[Score]:
    """Computes corpus chrF2, with arguments as for :func:`score_bleu`."""
    return [_sacrebleu(sacrebleu.metrics.CHRF(lowercase=lowercase), hypotheses, references, samples)]


def _sacrebleu(metric: Any, hypotheses: Sequence[str], references: Sequence[Sequence[str]], samples: int) -> Score:
    """Scores texts whose line ends are made spaces, because texts of sacrebleu are lines."""
    texts = [[as_words(text) for text in side] for side in (hypotheses, *references)]
    result = metric.corpus_score(texts[0], texts[1:], n_bootstrap=samples or 1)
    signature = str(metric.get_signature())
    if not samples:
        return Score(result.name, result.score, None, None, signature)
    return Score(result.name, result.score, result._mean - result._ci, result._mean + result._ci, signature)


def as_words(text: str) -> str:
    """A text with spaces for its line ends, also for those that are written ``<n>`` or ``<q>``."""
    return one_line(_MARK.sub(" ", text))
