from __future__ import annotations

import argparse

import pytest
import torch
from fairseq.sequence_generator import SequenceGenerator, SequenceGeneratorWithAlignment
from fairseq.sequence_scorer import SequenceScorer
from tiny import TinyELTask, TinyTask, batch, build_model, dictionary

import fairseq_el
from fairseq_el.generation import ELSequenceGenerator, ELSequenceGeneratorWithAlignment, el_generator

pytestmark = pytest.mark.usefixtures("both_ways")

WORDS = dictionary()
SAMPLE_LENGTHS = [5, 2, 7, 1]


def tokens(generator, model):
    finalized = generator.generate([model], batch(WORDS, SAMPLE_LENGTHS, seed=3))
    return [[hypothesis["tokens"].tolist() for hypothesis in hypotheses] for hypotheses in finalized]


def test_stock_bart_serves_generators_of_several_beam_sizes():
    """Stock generators share one attribute of the model; whichever was built last decides, and beam 1 sets nothing."""
    model = build_model("bart_base", WORDS, seed=1)
    generators = {b: ELSequenceGenerator([model], WORDS, beam_size=b, max_len_b=8) for b in (4, 1, 5)}
    for beam_size in (4, 1, 5, 1):
        fresh = build_model("bart_base", WORDS, seed=1)
        expected = tokens(SequenceGenerator([fresh], WORDS, beam_size=beam_size, max_len_b=8), fresh)
        assert tokens(generators[beam_size], model) == expected


def test_diverse_beam_search_of_a_later_batch():
    """A batch from the middle of a data set, where stock 0.12.3 ends in an IndexError: as the same batch alone."""
    model = build_model("transformer", WORDS, seed=1)
    options = argparse.Namespace(beam=4, max_len_b=8, diverse_beam_groups=2)
    sample = batch(WORDS, SAMPLE_LENGTHS, seed=3)
    sample["id"] = torch.arange(4)
    task = TinyTask(WORDS)
    expected = task.inference_step(task.build_generator([model], options), [model], sample)
    later = {**sample, "id": sample["id"] + 100}
    el_task = TinyELTask(WORDS)
    mine = el_task.inference_step(el_task.build_generator([model], options), [model], later)
    for my_hypotheses, their_hypotheses in zip(mine, expected):
        assert [h["tokens"].tolist() for h in my_hypotheses] == [h["tokens"].tolist() for h in their_hypotheses]
    assert later["id"].tolist() == [100, 101, 102, 103]


@pytest.mark.parametrize("beam", [1, 3])
def test_prefix_constrained_search(beam):
    """``prefix_allowed_tokens_fn``: a search that offers no more candidates than there are beams."""

    def allowed(sentence, words):
        return [4 + (int(words[-1]) + sentence + i) % 12 for i in range(4)] + [WORDS.eos()]

    options, sample = argparse.Namespace(beam=beam, max_len_b=7), batch(WORDS, SAMPLE_LENGTHS, seed=3)
    results = []
    for task in (TinyTask(WORDS), TinyELTask(WORDS)):
        model = build_model("transformer", WORDS, seed=1)
        generator = task.build_generator([model], options, prefix_allowed_tokens_fn=allowed)
        finalized = task.inference_step(generator, [model], sample)
        results.append([[h["tokens"].tolist() for h in hypotheses] for hypotheses in finalized])
    assert results[0] == results[1] and any(results[0])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("num_words", [16, 600])
@pytest.mark.parametrize("beam_size", [1, 2, 5, 7])
def test_equal_scores_come_as_in_stock(dtype, num_words, beam_size):
    """Words in pairs that the model can't tell apart, so that in every step scores are equal to the last bit."""
    words = dictionary(num_words)
    model = build_model("transformer", words, seed=1, dtype=dtype)
    with torch.no_grad():
        for weight in (model.decoder.output_projection.weight, model.decoder.embed_tokens.weight):
            weight[5::2] = weight[4:-1:2]
    sample, options = batch(words, SAMPLE_LENGTHS, seed=3), {"beam_size": beam_size, "max_len_b": 8}
    expected = SequenceGenerator([model], words, **options).generate([model], sample)
    if dtype == torch.float64:  # in float32 EL-attention rounds otherwise: a stock model
        fairseq_el.enable_el_attention(model)
    found = ELSequenceGenerator([model], words, **options).generate([model], sample)
    equal = 0
    for mine, theirs in zip(found, expected):
        assert [h["tokens"].tolist() for h in mine] == [h["tokens"].tolist() for h in theirs]
        assert [float(h["score"]) for h in mine] == [float(h["score"]) for h in theirs]
        equal += len(theirs) - len({float(h["score"]) for h in theirs})
    assert equal > 0 or beam_size == 1


def test_finished_sentences_are_dropped_an_eighth_at_a_time():
    """Those that are carried along until then change nothing."""
    sample, sizes = batch(WORDS, list(range(1, 21)), seed=3), []
    options = {"beam_size": 3, "max_len_b": 40}
    model = build_model("transformer", WORDS, seed=6)
    expected = SequenceGenerator([model], WORDS, **options).generate([model], sample)
    fairseq_el.enable_el_attention(model)
    generator = ELSequenceGenerator([model], WORDS, **options)
    generator.on_step = lambda step, states: sizes.append(states[0].num_sentences)
    for theirs, mine in zip(expected, generator.generate([model], sample)):
        assert [h["tokens"].tolist() for h in mine] == [h["tokens"].tolist() for h in theirs]
        assert [float(h["score"]) for h in mine] == pytest.approx([float(h["score"]) for h in theirs], rel=1e-6)
    drops = [(before, before - after) for before, after in zip(sizes, sizes[1:]) if after < before]
    assert all(8 * dropped >= before for before, dropped in drops)
    assert sum(dropped > 1 for _, dropped in drops) >= 2


def test_attention_is_recorded_as_in_stock_unless_told_not_to():
    model, sample = build_model("transformer", WORDS, seed=1), batch(WORDS, SAMPLE_LENGTHS, seed=3)
    options = {"beam_size": 3, "max_len_b": 6}
    stock = SequenceGenerator([model], WORDS, **options).generate([model], sample)
    fairseq_el.enable_el_attention(model)
    generator = ELSequenceGenerator([model], WORDS, **options)
    generator.record_attention = True
    for theirs, mine in zip(stock, generator.generate([model], sample)):
        torch.testing.assert_close(
            [h["attention"] for h in mine], [h["attention"] for h in theirs], rtol=1e-6, atol=1e-6
        )
    generator.record_attention = False
    assert all(h["attention"].numel() == 0 for hypotheses in generator.generate([model], sample) for h in hypotheses)


def test_steps_for_print_step():
    model = build_model("transformer", WORDS, seed=1)
    finalized = ELSequenceGenerator([model], WORDS, beam_size=2, max_len_b=8).generate(
        [model], batch(WORDS, SAMPLE_LENGTHS, seed=3)
    )
    assert all(h["steps"] == h["tokens"].numel() for hypotheses in finalized for h in hypotheses)


@pytest.mark.parametrize(
    ("stock", "el"),
    [(SequenceGenerator, ELSequenceGenerator), (SequenceGeneratorWithAlignment, ELSequenceGeneratorWithAlignment)],
)
def test_a_stock_generator_is_taken_over_with_its_settings(stock, el):
    model = build_model("transformer", WORDS, seed=1)
    generator = stock([model], WORDS, beam_size=3, max_len_b=6, no_repeat_ngram_size=2, eos=5, len_penalty=0.5)
    expected = tokens(generator, model)
    converted = el_generator(generator)
    assert type(converted) is el and isinstance(converted, torch.nn.Module)
    converted.ngram_blocking_as_stock = True
    assert tokens(converted, model) == expected
    assert el_generator(converted) is converted


def test_other_generators_are_left_alone():
    class OwnGenerator(SequenceGenerator):
        pass

    model = build_model("transformer", WORDS, seed=1)
    for generator in (OwnGenerator([model], WORDS), SequenceScorer(WORDS), object()):
        assert el_generator(generator) is generator


def test_scoring_a_reference_equals_stock():
    """``--score-reference``, with an EL model that has just been used for beam search."""
    stock, el = build_model("bart_base", WORDS, seed=1), build_model("bart_base", WORDS, seed=1)
    sample = batch(WORDS, SAMPLE_LENGTHS, seed=3)
    task = TinyELTask(WORDS)
    tokens(task.build_generator([el], argparse.Namespace(beam=4, max_len_b=5)), el)
    reference = torch.randint(4, len(WORDS), (4, 6), generator=torch.Generator().manual_seed(1))
    reference[:, -1] = WORDS.eos()
    sample["target"] = reference
    sample["net_input"]["prev_output_tokens"] = reference.roll(1, dims=1)
    scores = [
        t.inference_step(t.build_generator([m], argparse.Namespace(score_reference=True)), [m], sample)
        for t, m in ((TinyTask(WORDS), stock), (task, el))
    ]
    for theirs, mine in zip(*scores):
        torch.testing.assert_close(mine[0]["positional_scores"], theirs[0]["positional_scores"])
