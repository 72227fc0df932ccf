"""The same numbers as by calling the libraries."""

from __future__ import annotations

import socket

import numpy as np
import pytest
import sacrebleu
import sacrebleu.tokenizers.tokenizer_ja_mecab
import sacrebleu.tokenizers.tokenizer_ko_mecab
import sacrebleu.tokenizers.tokenizer_spm
from rouge_score import rouge_scorer, tokenize

from fairseq_el.errors import OptionError
from fairseq_el.scoring import SPLITS, score_bleu, score_chrf, score_rouge, warn_of_dropped_letters

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


@pytest.mark.parametrize("mode", SPLITS)
@pytest.mark.parametrize("mark", ["<n>", "<q>", "\n", "\r\n", "\r", " <n> "])
def test_line_ends_are_no_words(mode, mark):
    marked = [mark.join(["The cat sat", "on the mat", "It slept."]), f"A dog{mark}runs{mark}"]
    lines = ["The cat sat\non the mat\nIt slept.", "A dog\nruns"]
    plain = ["The cat sat on the mat It slept.", "A dog runs"]
    for score in score_rouge(marked, [lines], SPLITS[mode], mode, 0, 1):
        assert score.value == pytest.approx(100)
    assert score_rouge(marked, [FIRST[:2]], SPLITS[mode], mode, 0, 1) == score_rouge(
        lines, [FIRST[:2]], SPLITS[mode], mode, 0, 1
    )
    for one, other in ((marked, plain), (plain, marked)):
        assert score_bleu(one, [other], None, False, 0)[0].value == pytest.approx(100)
        assert score_chrf(one, [other], False, 0)[0].value == pytest.approx(100)


@pytest.mark.parametrize(
    ("hypotheses", "references", "parts"),
    [
        (
            ["\u4e2d\u6587"],
            ["\u4e2d\u6587"],
            ["100.0 % of those of hypotheses and 100.0 %", "Chinese characters", "1 of 1"],
        ),
        (
            ["\u043f\u0440\u0438\u0432\u0435\u0442"],
            ["hello"],
            ["100.0 % of those of hypotheses and 0.0 %", "Cyrillic", "0 of 1 ref"],
        ),
        (["hello"], ["\u03b3\u03b5\u03b9\u03ac"], ["0.0 % of those of hypotheses and 100.0 %", "Greek"]),
        (["\u0645\u0631\u062d\u0628\u0627 \u0663"], ["x"], ["Arabic"]),
        (["\u0e2a\u0e27\u0e31\u0e2a\u0e14\u0e35"], ["x"], ["Thai"]),
        (["\uc548\ub155"], ["\u3053\u3093"], ["Hangul", "Hiragana"]),
        (["\u05e9\u05dc\u05d5\u05dd", "a"], ["a", "a"], ["Hebrew", "1 of 2 hypotheses and 0 of 2 references"]),
        (["ab \u043f\u0440"], ["abcd"], ["50.0 % of those of hypotheses", "0 of 1 hypotheses"]),
        (
            ["sch\u00f6ne gr\u00fc\u00dfe"],
            ["sch\u00f6n"],
            ["27.3 % of those of hypotheses", "Latin letters with marks"],
        ),
        (["one " * 999, "\u4e2d"], ["one", "two"], ["1 of 2 hypotheses"]),
    ],
)
def test_letters_that_rouge_drops(hypotheses, references, parts):
    warning = warn_of_dropped_letters(hypotheses, [references])
    assert warning is not None and "\n" not in warning
    for part in parts:
        assert part in warning


@pytest.mark.parametrize(
    "text", ["The cat, 3.5 %.", "", "...", "The caf\u00e9 " + "was closed all day " * 20, "\u20ac 5 \u201ca\u201d"]
)
def test_letters_that_rouge_keeps(text):
    """Also few others among many."""
    assert warn_of_dropped_letters([text], [[text]]) is None


@pytest.mark.parametrize("letter", [*"aZ9\u00e9\u00df\u0130\u212a\u0663\u4e2d\u0436\u0e01\u00b2"])
def test_dropped_letters_are_those_that_rouge_score_drops(letter):
    kept = bool("".join(tokenize.tokenize(letter, None)))
    assert (warn_of_dropped_letters([letter], [[letter]]) is None) == kept


@pytest.fixture
def without_network(monkeypatch, tmp_path):
    def refuse(*_, **__):
        assert socket.getdefaulttimeout() == 30  # or it would wait for ever where packets are dropped
        raise OSError("Name or service not known")

    monkeypatch.setattr("urllib.request.urlopen", refuse)
    monkeypatch.setattr("sacrebleu.tokenizers.tokenizer_spm.SACREBLEU_DIR", str(tmp_path))


@pytest.mark.parametrize(
    ("tokenize", "name"),
    [
        ("flores200", "flores200sacrebleuspm"),
        ("flores101", "sacrebleu_tokenizer_spm.model"),
        ("spm", "sacrebleu_tokenizer_spm.model"),
    ],
)
def test_a_tokeniser_that_can_not_be_downloaded(tokenize, name, without_network, tmp_path):
    with pytest.raises(OptionError, match=f"--tokenize {tokenize} can't be used: Name or service") as error:
        score_bleu(HYPOTHESES, [FIRST], tokenize, False, 0)
    message = str(error.value)
    assert "\n" not in message and f"and put it at {tmp_path / 'models' / name}, or choose another" in message
    assert "Download https://" in message and socket.getdefaulttimeout() is None


def test_a_tokeniser_whose_file_is_damaged(without_network, tmp_path):
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "flores200sacrebleuspm").write_bytes(b"<html>")
    with pytest.raises(OptionError, match=r"--tokenize flores200 can't be used: .*put it at"):
        score_bleu(HYPOTHESES, [FIRST], "flores200", False, 0)


@pytest.mark.parametrize("language", ["ja", "ko"])
def test_a_tokeniser_whose_package_is_missing(language, monkeypatch):
    monkeypatch.setattr(f"sacrebleu.tokenizers.tokenizer_{language}_mecab.MeCab", None)
    with pytest.raises(
        OptionError, match=rf"--tokenize {language}-mecab can't be used: .*pip install sacrebleu\["
    ) as error:
        score_bleu(HYPOTHESES, [FIRST], f"{language}-mecab", False, 0)
    assert "\n" not in str(error.value)
