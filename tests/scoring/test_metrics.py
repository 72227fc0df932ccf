"""The same numbers as by calling the libraries."""

from __future__ import annotations

import numpy as np
import pytest
import sacrebleu
from rouge_score import rouge_scorer

from fairseq_el.scoring import SPLITS, score_bleu, score_chrf, score_rouge

HYPOTHESES = ["The cat sat on the mats. It slept.", "A dog runs", "no match at all", "Birds fly south in winter."]
FIRST = ["The cat sat on a mat. It is sleeping.", "The dog ran", "something else", "Birds are flying south for winter."]
SECOND = ["A cat slept on the mat.", "A dog is running", "completely different words", "In winter, birds fly south."]


@pytest.mark.parametrize("references", [[FIRST], [FIRST, SECOND]])
@pytest.mark.parametrize("lowercase", [False, True])
def test_bleu_and_chrf(references, lowercase):
    (bleu,) = score_bleu(HYPOTHESES, references, None, lowercase, samples=0)
    assert bleu.value == sacrebleu.corpus_bleu(HYPOTHESES, references, lowercase=lowercase).score
    assert f"nrefs:{len(references)}|case:{'lc' if lowercase else 'mixed'}|eff:no|tok:13a|smooth:exp" in bleu.signature
    (chrf,) = score_chrf(HYPOTHESES, references, lowercase, samples=0)
    expected = sacrebleu.metrics.CHRF(lowercase=lowercase).corpus_score(HYPOTHESES, references)
    assert (chrf.name, chrf.value, chrf.low) == ("chrF2", expected.score, None)


@pytest.mark.parametrize("references", [[FIRST], [FIRST, SECOND]])
def test_rouge(references):
    scorer = rouge_scorer.RougeScorer(["rouge1", "rouge2", "rougeL", "rougeLsum"], use_stemmer=True)
    found = {score.name: score for score in score_rouge(HYPOTHESES, references, SPLITS["lines"], "lines", 0, 1)}
    assert list(found) == ["rouge1", "rouge2", "rougeL", "rougeLsum"]
    for name, score in found.items():
        best = [
            max(scorer.score(target, hypothesis)[name].fmeasure for target in targets)
            for hypothesis, *targets in zip(HYPOTHESES, *references)
        ]
        assert score.value == pytest.approx(100 * np.mean(best), rel=1e-12)
        assert score.signature.startswith(f"nrefs:{len(references)}|stem:porter|sents:lines|version:")


def test_sentences_matter_to_rouge_lsum_only():
    lines = score_rouge(HYPOTHESES, [FIRST], SPLITS["lines"], "lines", 0, 1)
    punctuation = score_rouge(HYPOTHESES, [FIRST], SPLITS["punctuation"], "punctuation", 0, 1)
    differ = [a.name for a, b in zip(lines, punctuation) if a.value != b.value]
    assert set(differ) <= {"rougeLsum"}


def test_intervals_are_repeatable(monkeypatch):
    monkeypatch.setenv("SACREBLEU_SEED", "7")
    before = np.random.get_state()[1].tolist()

    def intervals(seed):
        scores = score_rouge(HYPOTHESES, [FIRST], SPLITS["lines"], "lines", 200, seed)
        scores += score_bleu(HYPOTHESES, [FIRST], None, False, 200)
        return [(score.low, score.high) for score in scores], scores

    (first, scores), (second, _) = intervals(3), intervals(3)
    assert first == second
    assert intervals(4)[0][:4] != first[:4]
    assert np.random.get_state()[1].tolist() == before
    for score in scores[:4]:
        assert score.low <= score.value <= score.high
        assert score.signature.startswith("bs:200|seed:3|")
    assert "bs:200|seed:7" in scores[4].signature
