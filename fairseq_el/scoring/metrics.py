"""BLEU and chrF by sacrebleu, and ROUGE by rouge-score: scores of a test set, with the settings that repeat them."""

from __future__ import annotations

import re
import socket
import unicodedata
from collections import Counter
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple

import numpy as np
import sacrebleu.metrics
from tqdm import tqdm

from fairseq_el.errors import OptionError
from fairseq_el.files import one_line

METRICS = ("bleu", "chrf", "rouge")
_MARK = re.compile(r"<[nq]>")  # line ends that models write in a line: Pegasus <n>, others <q>
_PATIENCE = 30  # seconds that a download may stand still

SplitSentences = Callable[[str], List[str]]

ROUGE = ("rouge1", "rouge2", "rougeL", "rougeLsum")
CONFIDENCE = 0.95
_LINE_END = re.compile(r"<[nq]>|\r\n|\r|\n")
# What closes a quotation or a bracket. In tokenised text there is a space before it (" . '' "); not before those that
# open quotations in some languages and close them in others: \u201c, \u2018, \u00ab and \u2039.
_CLOSING = r"(?:\s?(?:''|[\"')\]}\u201d\u2019\u00bb\u203a])|[\u201c\u2018\u00ab\u2039])"
_END = re.compile(rf"(?<=[.!?])({_CLOSING}*)\s+")
_KEPT = re.compile("[a-z0-9]")
_MUCH = 0.01  # of the letters; English text has fewer that are dropped, German with its umlauts more
_SHOWN = 3  # scripts
_NAMES = {"Latin": "Latin letters with marks", "Cjk": "Chinese characters"}


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
    """Scores texts, with spaces for their line ends, because sacrebleu reads one text from each line."""
    texts = [[as_words(text) for text in side] for side in (hypotheses, *references)]
    result = metric.corpus_score(texts[0], texts[1:], n_bootstrap=samples or 1)
    signature = str(metric.get_signature())
    if not samples:
        return Score(result.name, result.score, None, None, signature)
    return Score(result.name, result.score, result._mean - result._ci, result._mean + result._ci, signature)


def as_words(text: str) -> str:
    """The text with spaces for its line ends, also for those that are written ``<n>`` or ``<q>``."""
    return one_line(_MARK.sub(" ", text))


def score_rouge(
    hypotheses: Sequence[str],
    references: Sequence[Sequence[str]],
    split: SplitSentences,
    split_name: str,
    samples: int,
    seed: int,
) -> List[Score]:
    """Computes the mean F of ROUGE-1, -2, -L and -Lsum with Porter's stemmer, by each hypothesis's best reference.

    Args:
        references: as for :func:`score_bleu`.
        split: splits a text into sentences, for ROUGE-Lsum; ``split_name`` goes into the signature.
        samples: number of bootstrap samples, 0 for none, drawn with ``seed``.
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
    """Computes the low and the high end of each score's interval; None without samples."""
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


def by_punctuation(text: str) -> List[str]:
    """Splits after sentence-final punctuation, abbreviations included, and at line ends."""
    return by_lines(_END.sub(r"\1\n", text))


def by_lines(text: str) -> List[str]:
    """Splits at line ends, also at those that are written ``<q>`` or ``<n>``."""
    return [part.strip() for part in _LINE_END.split(text) if part.strip()]


SPLITS: Dict[str, SplitSentences] = {"punctuation": by_punctuation, "lines": by_lines}


class _Letters:
    """Counts of letters and digits in texts that are kept and dropped, and of texts that lose all of them."""

    def __init__(self, texts: Sequence[str]):
        self.count = len(texts)
        self.kept = self.lost_whole = 0
        self.dropped: Counter[str] = Counter()
        for text in texts:
            kept, dropped = 0, 0
            for letter, count in Counter(text.lower()).items():
                if _KEPT.match(letter):
                    kept += count
                elif letter.isalnum():
                    dropped += count
                    self.dropped[_script(letter)] += count
            self.kept += kept
            self.lost_whole += dropped > 0 and not kept

    @property
    def share(self) -> float:
        dropped = sum(self.dropped.values())
        return dropped / max(dropped + self.kept, 1)


def warn_of_dropped_letters(hypotheses: Sequence[str], references: Sequence[Sequence[str]]) -> Optional[str]:
    """Warns that ROUGE does not see many letters, and names their scripts; None if they are few.

    rouge-score's tokeniser drops all letters but a to z, and all digits but 0 to 9.
    """
    mine, theirs = _Letters(hypotheses), _Letters([text for texts in references for text in texts])
    if max(mine.share, theirs.share) < _MUCH and not mine.lost_whole + theirs.lost_whole:
        return None
    scripts = ", ".join(name for name, _ in (mine.dropped + theirs.dropped).most_common(_SHOWN))
    return (
        "ROUGE: rouge-score's tokeniser drops letters and digits other than a to z and 0 to 9, here "
        f"{100 * mine.share:.1f} % of those of hypotheses and {100 * theirs.share:.1f} % of those of references "
        f"({scripts}). {mine.lost_whole} of {mine.count} hypotheses and {theirs.lost_whole} of {theirs.count} "
        "references have no others, and score 0. BLEU and chrF see all letters"
    )


def _script(letter: str) -> str:
    """Names the script of a letter by the first word of its name, such as Cyrillic, or as a reader calls it."""
    name = unicodedata.name(letter, "unknown").split()[0].capitalize()
    return _NAMES.get(name, name)
