"""fairseq's CUDA extension for n-grams: EL generators never try it as fairseq does, whose probe reads out of bounds."""

from __future__ import annotations

import argparse
from types import SimpleNamespace

import pytest
import torch
from fairseq import ngram_repeat_block
from fairseq.ngram_repeat_block import NGramRepeatBlock
from fairseq.sequence_generator import SequenceGenerator
from tiny import TinyELTask, TinyTask, batch, build_model, dictionary

from fairseq_el.generation import (
    ELSequenceGenerator,
    ELSequenceGeneratorWithAlignment,
    build_el_generator,
    forbids_the_right_words,
    has_ngram_extension,
    stock_blocker,
)

WORDS = dictionary()
OPTIONS = {"beam": 3, "max_len_b": 8, "no_repeat_ngram_size": 2}


def as_the_kernel(tokens, scores, num_sentences, step, beam_size, ngram_size):
    """What ``banRepeatedTokens`` does, row by row."""
    for row in range(num_sentences * beam_size):
        words = tokens[row].tolist()
        for i in range(step - ngram_size + 2):
            if words[i : i + ngram_size - 1] == words[step + 2 - ngram_size : step + 1]:
                scores[row, words[i + ngram_size - 1]] = float("-inf")
    return scores


@pytest.fixture
def probes(monkeypatch):
    """An extension that is compiled, on a machine with a card; the calls of fairseq's probe."""
    called = []
    monkeypatch.setattr(ngram_repeat_block, "EXTENSION_BUILT", True)
    monkeypatch.setattr(ngram_repeat_block, "is_cuda_extension_usable", lambda: bool(called.append(1)) or True)
    extension = SimpleNamespace(forward=as_the_kernel)
    monkeypatch.setattr(ngram_repeat_block, "ngram_repeat_block_cuda", extension, raising=False)
    has_ngram_extension.cache_clear()
    yield called
    has_ngram_extension.cache_clear()


def words_of(generator, model):
    found = generator.generate([model], batch(WORDS, [5, 2, 7], seed=3))
    return [[h["tokens"].tolist() for h in hypotheses] for hypotheses in found]


def test_the_probe_of_stock_is_counted(probes):
    SequenceGenerator([build_model("transformer", WORDS, seed=1)], WORDS, no_repeat_ngram_size=2)
    assert len(probes) == 1


@pytest.mark.parametrize("as_stock", [False, True])
@pytest.mark.parametrize("cls", [ELSequenceGenerator, ELSequenceGeneratorWithAlignment])
def test_el_generators_do_not_probe(cls, as_stock, probes):
    """Nor do they call the extension on a CPU, where it can't be."""
    model = build_model("transformer", WORDS, seed=1)
    generator = cls([model], WORDS, beam_size=3, max_len_b=8, no_repeat_ngram_size=2)
    blocker = generator.repeat_ngram_blocker
    assert type(blocker) is NGramRepeatBlock and blocker.no_repeat_ngram_size == 2
    generator.ngram_blocking_as_stock = as_stock
    found = [h for hypotheses in words_of(generator, model) for h in hypotheses]
    pairs = [list(zip(words, words[1:])) for words in found]
    assert all(len(set(of_one)) == len(of_one) for of_one in pairs) or as_stock
    assert not probes and not blocker.use_extension


def test_the_size_may_be_the_thirteenth_argument():
    model = build_model("transformer", WORDS, seed=1)
    given = (2, 0, 9, 0, 1, True, 0.5, 0.1, 1.0, False, 3)
    generator = ELSequenceGenerator([model], WORDS, *given)
    stock = SequenceGenerator([model], WORDS, *given)
    assert generator.repeat_ngram_blocker.no_repeat_ngram_size == 3
    own = ("model", "search", "repeat_ngram_blocker")
    assert {k: v for k, v in generator.__dict__.items() if k[0] != "_" and k not in own} == {
        k: v for k, v in stock.__dict__.items() if k[0] != "_" and k not in own
    }
    with pytest.raises(TypeError):
        ELSequenceGenerator([model], WORDS, no_such_option=1)


@pytest.mark.parametrize("task", [TinyELTask, TinyTask])
def test_generators_of_tasks_do_not_probe(task, probes):
    """Options stay the caller's own."""
    model, options = build_model("transformer", WORDS, seed=1), argparse.Namespace(**OPTIONS)
    generator = build_el_generator(task(WORDS).build_generator, [model], options)
    assert isinstance(generator, ELSequenceGenerator) and not probes
    assert generator.repeat_ngram_blocker.no_repeat_ngram_size == options.no_repeat_ngram_size == 2


def test_generators_of_other_classes_get_a_blocker_as_stock(probes, monkeypatch):
    class OwnGenerator(SequenceGenerator):
        pass

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    model = build_model("transformer", WORDS, seed=1)
    generator = build_el_generator(
        lambda models, args: OwnGenerator(models, WORDS, no_repeat_ngram_size=args.no_repeat_ngram_size),
        [model], argparse.Namespace(**OPTIONS),
    )  # fmt: skip
    assert type(generator) is OwnGenerator and not probes
    assert generator.repeat_ngram_blocker.no_repeat_ngram_size == 2


def test_an_extension_that_works():
    assert forbids_the_right_words(as_the_kernel, "cpu")


def test_as_many_rows_of_tokens_as_of_scores():
    sizes = []

    def watched(tokens, scores, num_sentences, step, beam_size, ngram_size):
        sizes.append((tokens.size(0), scores.size(0), num_sentences * beam_size))
        assert step + 1 <= tokens.size(1)
        return as_the_kernel(tokens, scores, num_sentences, step, beam_size, ngram_size)

    assert forbids_the_right_words(watched, "cpu")
    assert len(sizes) == 1 and len(set(sizes[0])) == 1


def refuses(*arguments):
    raise RuntimeError("CUDA error: no kernel image is available for execution on the device")


@pytest.mark.parametrize("forward", [refuses, lambda tokens, scores, *more: scores], ids=["fails", "forbids nothing"])
def test_an_extension_that_does_not_work(forward):
    assert not forbids_the_right_words(forward, "cpu")


@pytest.mark.parametrize("works", [True, False])
def test_stock_has_the_extension_only_where_it_works(works, probes, monkeypatch, caplog):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    asked = []
    monkeypatch.setattr(
        "fairseq_el.generation.ngram_extension.forbids_the_right_words", lambda *more: asked.append(more) or works
    )
    assert stock_blocker(2).use_extension is works and stock_blocker(3).use_extension is works
    assert asked == [(as_the_kernel, "cuda")] and not probes
    assert ("does not work" in caplog.text) is not works


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a card")
def test_on_a_card_the_extension_works_or_is_not_there():
    has_ngram_extension.cache_clear()
    assert has_ngram_extension() is ngram_repeat_block.EXTENSION_BUILT
