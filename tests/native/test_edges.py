"""Native code at the edges: sizes, padding, many steps, scores that are not numbers, equal scores, levels."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from fairseq.sequence_generator import SequenceGenerator
from native_cases import EXACT, LENGTHS, WORDS, assert_same, both, generator_of, logged, make, tokens
from searches import in_python, natively, skip_unless_compiled
from tiny import batch, build_language_model, build_model, dictionary

import fairseq_el
from fairseq_el._compat import torch_version
from fairseq_el.errors import NoHypothesisError
from fairseq_el.generation import native_search as module

extension = skip_unless_compiled()


@pytest.mark.parametrize("backend", ["el", "shared-kv"])
@pytest.mark.parametrize("lengths", [[6], [1], [1, 1], [3] * 17, [40, 1]], ids=str)
def test_sizes_of_batches(lengths, backend):
    model = fairseq_el.enable_el_attention(make(), backend)
    assert_same(*both(generator_of(model), batch(WORDS, lengths, seed=3)), **EXACT)


@pytest.mark.parametrize("kind", ["transformer", "language model"])
def test_no_sentence(kind):
    """No hypotheses, or the kind of error of the Python way."""
    model = make() if kind == "transformer" else fairseq_el.enable_el_attention(build_language_model(WORDS, 1))
    sample = {
        "id": torch.empty(0),
        "net_input": {"src_tokens": torch.empty(0, 4).long(), "src_lengths": torch.empty(0)},
    }
    said = []
    for way in (natively, in_python):
        with way():
            try:
                said.append(generator_of(model).generate([model], sample))
            except Exception as error:
                said.append(type(error))
    assert said[0] in ([], said[1])


@pytest.mark.parametrize("backend", ["el", "shared-kv"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("rows", [[1], [0, 1, 2, 3]], ids=["one", "all"])
def test_a_sentence_that_is_all_padding(rows, dtype, backend):
    """It may have hypotheses or not, as in the Python way with one attention or the other; the others have theirs."""
    generator = generator_of(fairseq_el.enable_el_attention(make(dtype=dtype), backend))
    sample = batch(WORDS, LENGTHS, seed=3)
    expected = both(generator, sample)[1]
    sample["net_input"]["src_tokens"][rows] = WORDS.pad()
    try:
        with natively():
            found = generator.generate(list(generator.model.models), sample)
    except NoHypothesisError as error:
        numbers = ", ".join(str(int(sample["id"][row])) for row in rows)
        assert re.match(f"Sentences? {numbers} of the data ha(s|ve) no hypothesis", str(error))
    else:
        others = [i for i in range(len(LENGTHS)) if i not in rows]
        assert_same([found[i] for i in others], [expected[i] for i in others], rtol=1e-5, atol=2e-5)


def with_columns(source: torch.Tensor) -> torch.Tensor:
    """Padded beyond the longest sentence, and beyond the positions that the model has."""
    return torch.nn.functional.pad(source, (0, 70), value=WORDS.pad())


CHANGES = {
    "in 32 bits": lambda source: source.int(),
    "transposed": lambda source: source.t().contiguous().t(),
    "every second column": lambda source: torch.stack([source, source * 0 + 7], dim=2)[:, :, 0],
    "more columns": with_columns,
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("options", [{}, {"encoder_learned_pos": True}], ids=["sinusoids", "learned"])
def test_words_of_the_source(change, options):
    generator, sample = generator_of(make(dtype=torch.float32, **options)), batch(WORDS, LENGTHS, seed=3)
    expected = both(generator, sample)[1]
    sample["net_input"]["src_tokens"] = CHANGES[change](sample["net_input"]["src_tokens"])
    for found in both(generator, sample):
        assert_same(found, expected, rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize("own", ["kv", "el"])
@pytest.mark.parametrize("steps", [300, pytest.param(1000, marks=pytest.mark.long)])
def test_many_steps(own, steps):
    model = make(decoder_layers=1, max_target_positions=1024)
    fairseq_el.enable_el_attention(model, self_attention=own)
    found, expected = both(generator_of(model, beam_size=2, min_len=steps, max_len_b=steps), batch(WORDS, [4], seed=3))
    assert_same(found, expected, **EXACT)
    assert [h["tokens"].numel() for h in found[0]] == [steps + 1, steps + 1]


def test_all_sentences_end_in_the_same_step():
    found, expected = both(generator_of(make(), min_len=7, max_len_b=7))
    assert_same(found, expected, **EXACT)
    assert {h["tokens"].numel() for hypotheses in found for h in hypotheses} == {8}


def test_the_longest_output():
    """No hypothesis ends by itself before: the eos is the least likely word."""
    model = make("el_transformer", output_bias=True)
    model.decoder.output_projection.bias[WORDS.eos()] = -50.0
    found, expected = both(generator_of(model))
    assert_same(found, expected, **EXACT)
    assert {h["tokens"].numel() for hypotheses in found for h in hypotheses} == {13}


@pytest.mark.parametrize(
    "where", ["decoder.layers.1.fc1.weight", "decoder.embed_tokens.weight", "encoder.layers.0.fc1.bias"]
)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_weights_that_are_not_numbers(where, dtype):
    model = make(dtype=dtype)
    dict(model.named_parameters())[where][WORDS.eos()] = float("nan")  # in an embedding, the first word of all
    said = []
    for way in (natively, in_python):
        with way(), pytest.raises(fairseq_el.FairseqElError) as caught:
            generator_of(model).generate([model], batch(WORDS, LENGTHS, seed=3))
        said.append(f"{type(caught.value).__name__}: {caught.value}")
    assert said[0] == said[1] and "NaN" in said[0] and where in said[0]


def test_nan_in_later_steps():
    """Learned positions of a damaged checkpoint end early: after that, some sentences are finished already."""
    model = make(decoder_learned_pos=True)
    model.decoder.embed_positions.weight[WORDS.pad() + 5 :] = float("nan")
    said = []
    for way in (natively, in_python):
        with way():
            try:
                said.append(tokens(generator_of(model).generate([model], batch(WORDS, LENGTHS, seed=3))))
            except fairseq_el.FairseqElError as error:
                said.append(str(error))
    assert said[0] == said[1]


def test_a_vocabulary_hardly_larger_than_two_beams(monkeypatch, caplog):
    """20 words: with 9 beams there are 18 candidates, with 10 as many as words."""
    assert_same(*both(generator_of(make(), beam_size=9)), **EXACT)
    assert "10 beams are many for a vocabulary of 20" in logged(monkeypatch, caplog, generator_of(make(), beam_size=10))


@pytest.mark.parametrize("lengths", [[4], LENGTHS, [3, 9, 1, 4, 4, 8, 2, 2, 5]], ids=len)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_threads(lengths, dtype):
    """With 2 threads they have a group of sentences each, or share products; 12 are more than there are sentences."""
    generator, sample = generator_of(make(dtype=dtype), beam_size=5), batch(WORDS, lengths, seed=3)
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3, 12):
            torch.set_num_threads(threads)
            with natively():
                found.append(generator.generate(list(generator.model.models), sample))
    finally:
        torch.set_num_threads(before)
    for others in found[1:]:
        assert_same(others, found[0], rtol=1e-5, atol=2e-5)
        assert tokens(others) == tokens(found[0])


@pytest.mark.parametrize("num_words", [16, 600])
@pytest.mark.parametrize("beam_size", [1, 2, 5, 7])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_equal_scores_come_as_in_stock(num_words, beam_size, dtype):
    """Words in pairs that the model can't tell apart, so that in every step scores are equal to the last bit."""
    if dtype == torch.float32 and torch_version() < (2, 0):
        pytest.skip("with torch 1.12 stock's scores of words that a model can't tell apart may have another last bit")
    words = dictionary(num_words)
    model = build_model("transformer", words, 1, dtype).requires_grad_(False)
    for weight in (model.decoder.output_projection.weight, model.decoder.embed_tokens.weight):
        weight[5::2] = weight[4:-1:2]
    sample, options = batch(words, LENGTHS, seed=3), {"beam_size": beam_size, "max_len_b": 8}
    expected = SequenceGenerator([model], words, **options).generate([model], sample)
    generator = generator_of(fairseq_el.enable_el_attention(model), words, **options)
    with natively():
        found = generator.generate([model], sample)
    assert tokens(found) == tokens(expected)
    scores = [float(h["score"]) for hypotheses in found for h in hypotheses]
    assert beam_size == 1 or len(set(scores)) < len(scores)


@pytest.mark.long
@pytest.mark.parametrize("level", ["plain", "avx2", "avx512"])
def test_levels_of_instructions(level):
    """The comparison with the Python way, in a process of its own: the level is chosen once."""
    if level == extension.instruction_level():
        pytest.skip(f"all other tests run on {level}")
    code = """if True:
        import sys, pytest
        from fairseq_el import native
        if native.extension().instruction_level() != sys.argv[1]:
            sys.exit(77)
        sys.exit(pytest.main(["-q", "-p", "no:cacheprovider", sys.argv[2]]))
    """
    environment = {**os.environ, "FAIRSEQ_EL_INSTRUCTIONS": level, "FAIRSEQ_EL_CASES": "6", "OMP_NUM_THREADS": "1"}
    process = subprocess.run(
        [sys.executable, "-c", code, level, Path(__file__).with_name("test_against_reference.py")],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parent.parent.parent,
    )
    if process.returncode == 77:
        pytest.skip(f"this processor has no {level}, or the extension was compiled without it")
    assert process.returncode == 0, process.stdout[-3000:] + process.stderr[-1000:]


@pytest.mark.parametrize("layers", ["encoder_layers", "decoder_layers"])
def test_models_without_layers(layers):
    """The decoder is a language model's: others have no attention to enable then."""
    if layers == "encoder_layers":
        model, given = make(dtype=torch.float32, encoder_layers=0), {}
        assert_same(*both(generator_of(model), **given), rtol=1e-5, atol=2e-5)
    else:
        model = fairseq_el.enable_el_attention(build_language_model(WORDS, 1))
        model.decoder.layers = torch.nn.ModuleList()
        assert module.reason_against(model) == "the decoder has no layers"
