"""Scores by sacrebleu and rouge-score, with what it takes to repeat them."""

from __future__ import annotations

import socket
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple

import numpy as np
import sacrebleu.metrics
from tqdm import tqdm

from fairseq_el.errors import OptionError
from fairseq_el.scoring.sentences import as_words

SplitSentences = Callable[[str], List[str]]

ROUGE = ("rouge1", "rouge2", "rougeL", "rougeLsum")
METRICS = ("bleu", "chrf", "rouge")
CONFIDENCE = 0.95
_PATIENCE = 30  # seconds that a download may stand still


@dataclass(frozen=True)
class Score:
    """A score of a whole test set, from 0 to 100.

    Attributes:
        low, high: of the interval that holds 95 % of bootstrap samples, if samples were drawn.
        signature: what it takes to repeat the score, as sacrebleu writes it.
    """

    name: str
    value: float
    low: Optional[float]
    high: Optional[float]
    signature: str

    def as_dict(self) -> Dict[str, Any]:
        return asdict(self)


def make_bleu(tokenize: Optional[str], lowercase: bool) -> Any:
    """sacrebleu's BLEU, with what its tokeniser needs.

    Args:
        tokenize: a tokeniser of sacrebleu (default: its own choice, ``13a``).

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
    """Corpus BLEU.

    Args:
        references: one text for every hypothesis, for each set of references.
        tokenize: as of :func:`make_bleu`.
        samples: of the bootstrap, 0 for none. sacrebleu reads its seed from ``SACREBLEU_SEED``.
    """
    return [_sacrebleu(make_bleu(tokenize, lowercase), hypotheses, references, samples)]


def score_chrf(
    hypotheses: Sequence[str], references: Sequence[Sequence[str]], lowercase: bool, samples: int
) -> List[Score]:
    """Corpus chrF2. Arguments as of :func:`score_bleu`."""
    return [_sacrebleu(sacrebleu.metrics.CHRF(lowercase=lowercase), hypotheses, references, samples)]


def _sacrebleu(metric: Any, hypotheses: Sequence[str], references: Sequence[Sequence[str]], samples: int) -> Score:
    """Line ends, also those that are written ``<n>`` or ``<q>``, are spaces for sacrebleu, whose texts are lines."""
    texts = [[as_words(text) for text in side] for side in (hypotheses, *references)]
    result = metric.corpus_score(texts[0], texts[1:], n_bootstrap=samples or 1)
    signature = str(metric.get_signature())
    if not samples:
        return Score(result.name, result.score, None, None, signature)
    return Score(result.name, result.score, result._mean - result._ci, result._mean + result._ci, signature)


def score_rouge(
    hypotheses: Sequence[str],
    references: Sequence[Sequence[str]],
    split: SplitSentences,
    split_name: str,
    samples: int,
    seed: int,
) -> List[Score]:
    """Mean F of ROUGE-1, -2, -L and -Lsum, with Porter's stemmer, of the best reference of each hypothesis.

    Args:
        references: as of :func:`score_bleu`.
        split: gives the sentences of a text, for ROUGE-Lsum. ``split_name`` goes into the signature.
        samples: of the bootstrap, 0 for none, drawn with ``seed``.
    """
    from rouge_score import rouge_scorer  # imports nltk, half a second

    scorer = rouge_scorer.RougeScorer(list(ROUGE), use_stemmer=True)
    found: Dict[str, List[Any]] = {name: [] for name in ROUGE}
    for texts in tqdm(list(zip(hypotheses, *references)), desc="ROUGE", unit=" texts", leave=False, disable=None):
        hypothesis, *targets = ("\n".join(split(text)) for text in texts)
        for name, score in scorer.score_multi(targets, hypothesis).items():
            found[name].append(score)
    signature = f"nrefs:{len(references)}|stem:porter|sents:{split_name}|version:{metadata.version('rouge-score')}"
    if samples:
        signature = f"bs:{samples}|seed:{seed}|{signature}"
    lows, highs = _bounds(found, samples, seed)
    return [
        Score(name, 100 * float(np.mean([score.fmeasure for score in found[name]])), lows[name], highs[name], signature)
        for name in ROUGE
    ]


def _bounds(found: Dict[str, List[Any]], samples: int, seed: int) -> Tuple[Dict[str, Any], Dict[str, Any]]:
    """Of the interval of each score, the low and the high end; None without samples."""
    if not samples:
        return dict.fromkeys(found), dict.fromkeys(found)
    from rouge_score import scoring

    state = np.random.get_state()
    np.random.seed(seed)  # rouge-score draws from numpy's global generator
    try:
        aggregator = scoring.BootstrapAggregator(confidence_interval=CONFIDENCE, n_samples=samples)
        for scores in zip(*found.values()):
            aggregator.add_scores(dict(zip(found, scores)))
        result = aggregator.aggregate()
    finally:
        np.random.set_state(state)
    lows = {name: 100 * score.low.fmeasure for name, score in result.items()}
    return lows, {name: 100 * score.high.fmeasure for name, score in result.items()}
