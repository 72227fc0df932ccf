"""The interface between the search loop and what computes a step: its contract, and two more implementations."""

from __future__ import annotations

import argparse
import logging
from typing import ClassVar

import pytest
import torch
from tiny import TinyELTask, batch, build_model, dictionary

from fairseq_el.generation import ELSequenceGenerator, TransformersRules, choice
from fairseq_el.generation.batch_search import BatchSearch
from fairseq_el.generation.hypotheses import Beams, Candidates
from fairseq_el.generation.loop import SearchLoop
from fairseq_el.generation.reference_step import ReferenceStep
from fairseq_el.generation.step import BeamStep

WORDS = dictionary()
LENGTHS = [7, 2, 5, 3, 4, 6, 9, 12]


class CheckedStep(BeamStep):
    """The reference behind a guard that holds the loop, and the reference, to the contract."""

    seen: ClassVar[list] = []

    def __init__(self, rules, batch, decoders):
        super().__init__(rules, batch, decoders)
        self.inner = ReferenceStep(rules, batch, decoders)
        self.calls, self.sentences = [], list(batch.sentences)
        CheckedStep.seen.append(self)

    @classmethod
    def refusal(cls, rules, batch, decoders):
        return None

    @property
    def beams(self):
        return self.inner.beams

    def begin(self):
        assert self.calls == []
        self.calls.append("begin")
        self.first_step = self.inner.begin()
        self.check_beams()
        return self.first_step

    def candidates(self, step):
        assert self.calls[-1] == ("begin" if step == self.first_step else f"advance {step - 1}")
        assert self.batch.sentences == self.sentences  # nobody left meanwhile
        self.calls.append(f"candidates {step}")
        self.found = self.inner.candidates(step)
        self.copies = [tensor.clone() for tensor in self.found]
        self.check_beams()
        for tensor in self.found:
            assert tensor.size(0) == len(self.sentences) and tensor.size(1) >= self.rules.beam_size
        scores = self.found.scores
        assert scores.is_floating_point() and not bool(scores.isnan().any())
        assert self.found.tokens.dtype == torch.long and bool((self.found.tokens < self.rules.vocab_size).all())
        assert bool(((self.found.beams >= 0) & (self.found.beams < self.rules.beam_size)).all())
        if self.rules.is_beam_search:
            assert bool((scores[:, 1:] <= scores[:, :-1]).all())  # best first
        return self.found

    def worth_dropping(self, step, num_finished):
        assert self.calls[-1] == f"candidates {step}"
        finished = [sentence for sentence in self.sentences if sentence in self.batch.finished]
        assert num_finished == len(finished) < len(self.sentences)
        self.calls.append(f"worth_dropping {step}")
        return self.inner.worth_dropping(step, num_finished)

    def advance(self, step, candidates, ended, kept):
        assert self.calls[-1] == f"worth_dropping {step}"
        self.calls.append(f"advance {step}")
        assert all(torch.equal(tensor, copy) for tensor, copy in zip(self.found, self.copies))  # nobody writes to them
        places = list(range(len(self.sentences)))
        if kept is not None:
            assert kept.places == kept.on_device.tolist() == sorted(set(kept.places)) != []
            left = {sentence for i, sentence in enumerate(self.sentences) if i not in kept.places}
            assert left <= self.batch.finished
            places = kept.places
        self.sentences = [self.sentences[i] for i in places]
        assert self.batch.sentences == self.sentences  # they have left the batch right before
        assert ended.dtype == torch.bool and ended.shape == candidates.scores.shape
        assert all(torch.equal(mine, theirs[places]) for mine, theirs in zip(candidates, self.copies))
        self.inner.advance(step, candidates, ended, kept)
        self.check_beams()

    def check_beams(self):
        rows, max_len = len(self.sentences) * self.rules.beam_size, self.batch.max_len
        assert self.beams.tokens.shape == (rows, max_len + 2) and self.beams.tokens.dtype == torch.long
        assert self.beams.scores.shape == (rows, max_len + 1) and self.beams.scores.is_floating_point()
        assert self.beams.num_sentences == len(self.sentences)
        for state in self.inner.decoders.states:
            assert state.num_sentences == len(self.sentences)


class FromScratchStep(BeamStep):
    """Plain beam search that keeps nothing: every step runs stock's decoder over all words so far."""

    @classmethod
    def refusal(cls, rules, batch, decoders):
        if not rules.is_beam_search or rules.transformers is not None or batch.prefix_tokens is not None:
            return "it is not plain beam search"
        return None

    def begin(self):
        (decoder,) = self.decoders.models
        self.model, rules, batch = decoder.model, self.rules, self.batch
        self.beams = Beams(len(batch.sentences), rules.beam_size, batch.max_len, rules.pad, batch.first, batch.device)
        encoder = self.model.encoder
        rows = torch.arange(len(batch.sentences)).repeat_interleave(rules.beam_size)
        out = type(encoder).forward_torchscript(encoder, batch.net_input)
        self.encoder_out = type(encoder).reorder_encoder_out(encoder, out, rows)
        return 0

    def candidates(self, step):
        rules, decoder, tokens = self.rules, self.model.decoder, self.beams.tokens[:, : step + 1]
        logits, _ = type(decoder).forward(decoder, tokens, encoder_out=self.encoder_out)
        log_probs = rules.penalize(torch.log_softmax(logits[:, -1].float(), dim=1))
        if step >= self.batch.max_len:
            log_probs[:, : rules.eos] = log_probs[:, rules.eos + 1 :] = -torch.inf
        if step < rules.min_len:
            log_probs[:, rules.eos] = -torch.inf
        rules.block_ngrams(log_probs, self.beams.tokens, step)
        by_sentence = (self.beams.num_sentences, rules.beam_size, -1)
        scores = self.beams.scores.view(by_sentence)[:, :, :step]
        return Candidates(*rules.strategy.step(step, log_probs.view(by_sentence), scores))

    def worth_dropping(self, step, num_finished):
        return num_finished > 0

    def advance(self, step, candidates, ended, kept):
        places = torch.arange(self.beams.num_sentences) if kept is None else kept.on_device
        if kept is not None:
            self.beams.keep(kept)
        self.beams.advance(step, candidates, ended)  # the source is the same for all beams of a sentence
        rows = (places.unsqueeze(1) * self.rules.beam_size + torch.arange(self.rules.beam_size)).view(-1)
        self.encoder_out = type(self.model.encoder).reorder_encoder_out(self.model.encoder, self.encoder_out, rows)


class WithoutLoop(BatchSearch):
    """The same in the place of the loop."""

    runs: ClassVar[list] = []
    refusal = FromScratchStep.refusal

    def run(self):
        self.runs.append(self)
        inner = FromScratchStep(self.rules, self.batch, self.decoders)
        return SearchLoop(self.rules, self.batch, inner).run()


@pytest.fixture(autouse=True)
def without_native_code(monkeypatch):
    monkeypatch.setattr(choice, "IMPLEMENTATIONS", [ReferenceStep])


def decode(options=None, rules=None, prefix=None, dtype=torch.float64, **attributes):
    torch.manual_seed(7)
    model = build_model("transformer", WORDS, seed=6, dtype=dtype)
    args = argparse.Namespace(**{"beam": 3, "max_len_b": 30, **(options or {})})
    generator = TinyELTask(WORDS).build_generator([model], args)
    assert type(generator) is ELSequenceGenerator
    generator.transformers_rules = rules
    for name, value in attributes.items():
        setattr(generator, name, value)
    prefix = None if prefix is None else torch.tensor(prefix)
    return generator.generate([model], batch(WORDS, LENGTHS, seed=3), prefix_tokens=prefix)


def assert_same(found, expected, **tolerance):
    assert [len(hypotheses) for hypotheses in found] == [len(hypotheses) for hypotheses in expected]
    for mine, theirs in zip(found, expected):
        for hypothesis, known in zip(mine, theirs):
            assert hypothesis["tokens"].tolist() == known["tokens"].tolist()
            for name in ("score", "positional_scores"):
                torch.testing.assert_close(hypothesis[name], known[name], **tolerance)


RAGGED = [[5, 6], [7, 1], [1, 1], [5, 8], [9, 1], [4, 4], [1, 1], [7, 7]]
CASES = {
    "beam search": {},
    "greedy": {"options": {"beam": 1}},
    "n-grams": {"options": {"no_repeat_ngram_size": 2, "min_len": 4}},
    "penalties": {"options": {"lenpen": 0.3, "unkpen": 0.5}},
    "as long as the source": {"options": {"match_source_len": True}},
    "float32": {"dtype": torch.float32},
    "prefixes read at once": {"prefix": [[5, 6]] * 8},
    "prefixes of different lengths": {"prefix": RAGGED},
    "a prefix that ends": {"prefix": [[5, 2], *RAGGED[1:]]},
    "sampling": {"options": {"sampling": True}},
    "diverse": {"options": {"beam": 4, "diverse_beam_groups": 2}},
    "parts": {"encoder_tokens": 1},
    "transformers": {"rules": TransformersRules(early_stopping="never", forbidden=((7,), (8, 9)))},
    "transformers, early": {"rules": TransformersRules(early_stopping=True, forbidden=((7,), (8, 9)))},
    "transformers, prompts": {"rules": TransformersRules(), "prefix": RAGGED},
}


@pytest.mark.parametrize("case", CASES)
def test_loop_and_reference_keep_the_contract(case, monkeypatch):
    expected = decode(**CASES[case])
    monkeypatch.setattr(choice, "IMPLEMENTATIONS", [CheckedStep, ReferenceStep])
    CheckedStep.seen.clear()
    assert_same(decode(**CASES[case]), expected, rtol=0, atol=0)
    (step,) = CheckedStep.seen
    assert step.calls[-1].startswith("candidates") and len(step.calls) > 5
    if case in ("beam search", "sampling", "as long as the source", "transformers, early"):
        assert len(step.sentences) < len(LENGTHS)  # some have left


@pytest.mark.parametrize("implementation", [FromScratchStep, WithoutLoop])
@pytest.mark.parametrize("case", ["beam search", "greedy", "n-grams", "penalties"])
def test_another_implementation_finds_the_same(case, implementation, monkeypatch):
    expected = decode(**CASES[case])
    monkeypatch.setattr(choice, "IMPLEMENTATIONS", [implementation, ReferenceStep])
    WithoutLoop.runs.clear()
    assert_same(decode(**CASES[case]), expected, rtol=1e-5, atol=1e-5)
    assert len(WithoutLoop.runs) == (implementation is WithoutLoop)


def messages_of_the_loop(caplog):
    """Other modules log too, if a test before this one has left their level low."""
    return [record.getMessage() for record in caplog.records if record.name == choice.__name__]


def test_the_choice_is_logged_once_with_its_reason(monkeypatch, caplog):
    monkeypatch.setattr(choice, "IMPLEMENTATIONS", [FromScratchStep, ReferenceStep])
    monkeypatch.setattr(choice, "_logged", set())
    with caplog.at_level(logging.INFO, logger=choice.__name__):
        for case in ("beam search", "sampling", "beam search", "sampling"):
            decode(**CASES[case])
    assert messages_of_the_loop(caplog) == [
        "Batches are decoded by FromScratchStep",
        "A batch is not decoded by FromScratchStep: it is not plain beam search",
    ]


def test_nothing_is_logged_where_there_is_no_choice(caplog):
    with caplog.at_level(logging.INFO, logger=choice.__name__):
        decode()
    assert messages_of_the_loop(caplog) == []
