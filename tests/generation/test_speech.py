"""ELSequenceGenerator against fairseq's own, over random models of speech and random options."""

from __future__ import annotations

import copy
from typing import Any

import fairseq
import pytest
import torch
from fairseq.sequence_generator import SequenceGenerator
from hypothesis import given, settings
from hypothesis import strategies as st
from searches import in_place, natively, skip_unless_compiled
from test_against_stock import CASES_PER_TEST, assert_same, el_options, generation_options, run
from tiny import TinyELTask, TinyTask, assert_same_hypotheses, build_model, dictionary, hypotheses
from tiny_speech import ARCHITECTURES, build_speech_model, speech_batch

import fairseq_el
from fairseq_el.errors import NoHypothesisError
from fairseq_el.generation import ELSequenceGenerator, sentence_seed
from fairseq_el.generation.failures import out_of_memory

pytestmark = pytest.mark.usefixtures("both_ways")

WORDS = dictionary()
LENGTHS = [31, 30, 17, 6, 1]
FAILS_IN_STOCK = fairseq.__version__.startswith("0.12.2")  # --match-source-len counts numbers of frames as words


@pytest.fixture(autouse=True)
def no_garbage_collection(monkeypatch):
    """It takes longer than everything else where a batch is halved."""
    monkeypatch.setattr(out_of_memory.gc, "collect", lambda: 0)


@st.composite
def models(draw: Any, dtype: torch.dtype = torch.float64) -> Any:
    arch = draw(st.sampled_from(ARCHITECTURES))
    options = {
        "encoder_normalize_before": draw(st.booleans()),
        "decoder_normalize_before": draw(st.booleans()),
        "decoder_learned_pos": draw(st.booleans()),
        "decoder_layers": draw(st.integers(1, 3)),
        "decoder_attention_heads": draw(st.sampled_from([1, 2, 8])),
        "no_scale_embedding": draw(st.booleans()),
        "share_decoder_input_output_embed": draw(st.booleans()),
        "activation_fn": draw(st.sampled_from(["relu", "gelu"])),
    }
    if arch == "s2t_conformer":
        attention = draw(st.sampled_from([(None, "abs"), ("espnet", "abs"), ("espnet", "rel_pos"), ("espnet", "rope")]))
        options["attn_type"], options["pos_enc_type"] = attention
    if arch != "convtransformer":
        options["conv_kernel_sizes"] = draw(st.sampled_from(["5,5", "3", "3,5,3"]))
    return build_speech_model(arch, WORDS, draw(st.integers(0, 10**6)), dtype, **options)


@st.composite
def samples(draw: Any, dtype: torch.dtype = torch.float64) -> tuple[dict[str, Any], Any, Any]:
    """A ragged batch, with forced words or without."""
    lengths, seed = draw(st.lists(st.integers(1, 40), min_size=1, max_size=5)), draw(st.integers(0, 10**6))
    prefix_tokens = None
    if draw(st.booleans()):
        generator = torch.Generator().manual_seed(seed)
        prefix_tokens = torch.randint(4, len(WORDS), (len(lengths), draw(st.integers(1, 2))), generator=generator)
    return speech_batch(lengths, seed, dtype), prefix_tokens, None


def options_of(data: Any) -> dict[str, Any]:
    options = {**data.draw(generation_options()), "print_alignment": None, "no_repeat_ngram_size": 0}
    options.pop("constraints", None)
    options["match_source_len"] = options.get("match_source_len", False) and not FAILS_IN_STOCK
    return options


def check(data: Any, the_models: list[Any], options: dict[str, Any]) -> None:
    sample, stock_models = data.draw(samples()), copy.deepcopy(the_models)
    _, expected = run(TinyTask(WORDS), stock_models, options, copy.deepcopy(sample), None, seed=7)
    generator, mine = run(TinyELTask(WORDS, data.draw(el_options())), the_models, options, sample, None, seed=7)
    assert generator is None or fairseq_el.el_attention_enabled(the_models)
    if not isinstance(expected, Exception):  # stock's decoders of speech give no attention
        assert all(len(h["attention"]) == 0 for each in expected for h in each)
    assert_same(mine, expected)


@settings(max_examples=CASES_PER_TEST // 4 + 1)
@given(data=st.data())
def test_one_model(data):
    check(data, [data.draw(models())], options_of(data))


@settings(max_examples=CASES_PER_TEST // 8 + 1)
@given(data=st.data())
def test_ensembles(data):
    check(data, [data.draw(models()) for _ in range(2)], options_of(data))


@pytest.fixture(params=ARCHITECTURES)
def model(request):
    return build_speech_model(request.param, WORDS, seed=1)


def generators(model: Any, **options: Any) -> tuple[Any, Any]:
    """Stock's, and that of the same model with EL-attention."""
    stock = SequenceGenerator([copy.deepcopy(model)], WORDS, **options)
    mine = ELSequenceGenerator([fairseq_el.enable_el_attention(model)], WORDS, **options)
    mine.record_attention = False
    return stock, mine


def same(mine: Any, stock: Any, sample: Any) -> None:
    found = [hypotheses(generator, list(generator.model.models), sample) for generator in (mine, stock)]
    assert_same_hypotheses(*found, abs=1e-5)


def test_float32(model):
    stock, mine = generators(model.float(), beam_size=4, max_len_b=9)
    same(mine, stock, speech_batch(LENGTHS, seed=3, dtype=torch.float32))


@pytest.mark.parametrize("way", [natively, in_place], ids=["natively", "in place"])
def test_other_ways_read_what_the_encoder_gives(model, way):
    if way is natively:
        skip_unless_compiled()
    stock, mine = generators(model, beam_size=4, max_len_b=9)
    expected = hypotheses(stock, list(stock.model.models), speech_batch(LENGTHS, seed=3))
    with way():
        assert_same_hypotheses(hypotheses(mine, [model], speech_batch(LENGTHS, seed=3)), expected, abs=1e-5)


@pytest.mark.parametrize(("fits", "enabled"), [(1, True), (2, True), (2, False)], ids=str)
def test_a_batch_that_does_not_fit_is_decoded_in_halves(model, fits, enabled, monkeypatch):
    stock, mine = generators(model, beam_size=3, max_len_a=0.2, max_len_b=3)
    if not enabled:
        fairseq_el.disable_el_attention(model)
    decode, tried = mine._decode, []

    def decode_if_it_fits(sample: Any, *given: Any, **options: Any) -> Any:
        tried.append(len(sample["net_input"]["src_tokens"]))
        if tried[-1] > fits:
            raise RuntimeError("CUDA out of memory. Tried to allocate 2 GiB")
        return decode(sample, *given, **options)

    monkeypatch.setattr(mine, "_decode", decode_if_it_fits)
    same(mine, stock, speech_batch(LENGTHS, seed=3))
    assert tried[0] == 5 and any(size > fits for size in tried) and sum(size for size in tried if size <= fits) == 5


@pytest.mark.parametrize("options", [{}, {"sampling": True}], ids=["beam", "sampling"])
def test_alone(model, options):
    """Each sentence as stock decodes it in a batch of its own, without the padding of the others."""
    search = {} if not options else {"search_strategy": fairseq.search.Sampling(WORDS)}
    given = {"beam_size": 2, "max_len_a": 0.2, "max_len_b": 3}
    stock = SequenceGenerator([copy.deepcopy(model)], WORDS, **given, **search)
    mine = ELSequenceGenerator([fairseq_el.enable_el_attention(model)], WORDS, **given, **search)
    mine.record_attention, mine.alone, mine.seed = False, True, 5
    sample = speech_batch(LENGTHS, seed=3)
    found = hypotheses(mine, [model], sample)
    for i, length in enumerate(LENGTHS):
        one = {
            "id": sample["id"][i : i + 1],
            "net_input": {
                "src_tokens": sample["net_input"]["src_tokens"][i : i + 1, :length],
                "src_lengths": sample["net_input"]["src_lengths"][i : i + 1],
            },
        }
        torch.manual_seed(sentence_seed(5, i))
        assert_same_hypotheses([found[i]], hypotheses(stock, list(stock.model.models), one), abs=1e-5)


def test_features_that_are_not_numbers(model):
    _, mine = generators(model, beam_size=2, max_len_b=4)
    sample = speech_batch(LENGTHS, seed=3)
    sample["net_input"]["src_tokens"][1, 4] = float("nan")
    with pytest.raises(
        NoHypothesisError, match="Sentence 1 of the data has no hypothesis: the encoder's output"
    ) as said:
        mine.generate([model], sample)
    assert "\n" not in str(said.value)


@pytest.mark.parametrize("backend", ["el", "shared-kv"])
def test_bytes_that_are_kept(model, backend):
    """The encoder's output counts with its subsampled length, once for all beams."""
    fairseq_el.enable_el_attention(model, backend)
    generator = ELSequenceGenerator([model], WORDS, beam_size=4, max_len_b=6, min_len=6)
    generator.record_attention, sizes = False, []
    generator.on_batch = sizes.append
    sample = speech_batch(LENGTHS, seed=3)
    with torch.no_grad():
        out = model.encoder.forward_torchscript(sample["net_input"])
    generator.generate([model], sample)
    memory, mask = out["encoder_out"][0], out["encoder_padding_mask"][0]
    once = memory.numel() * 8 + mask.numel()
    layers = len(model.decoder.layers)
    if backend == "el":
        assert sizes[0].source == once
    else:  # native code keeps no padding
        assert once < sizes[0].source <= once + 2 * layers * memory.numel() * 8
    stock = 4 * once + 4 * 2 * layers * memory.numel() * 8
    assert sizes[0].source * 4 <= stock


def test_fewer_bytes_than_stock():
    """Counted in the same run, long sources: EL-attention keeps a fraction of what stock does."""
    model = build_speech_model("s2t_transformer", WORDS, seed=1, dtype=torch.float32, max_source_positions=500)
    stock, mine = generators(model, beam_size=5, max_len_b=10)
    sample = speech_batch([400, 400, 300], seed=3, dtype=torch.float32)
    kept = []
    for generator in (stock, mine):
        states: list[int] = []
        with torch.no_grad():
            kept.append(_state_bytes(generator, sample, states))
    assert kept[1] * 5 < kept[0]


def _state_bytes(generator: Any, sample: Any, states: list[int]) -> int:
    """The most bytes in encoder outputs and incremental states while a batch is decoded."""
    (model,) = generator.model.models
    if isinstance(generator, ELSequenceGenerator):
        sizes: list[Any] = []
        generator.on_batch = sizes.append
        generator.generate([model], sample)
        return sizes[0].past + sizes[0].source
    forward = model.decoder.forward

    def watched(tokens: Any, encoder_out: Any = None, incremental_state: Any = None) -> Any:
        result = forward(tokens, encoder_out=encoder_out, incremental_state=incremental_state)
        kept = [t for tensors in encoder_out.values() for t in tensors]
        kept += [t for entry in incremental_state.values() for t in entry.values() if t is not None]
        states.append(sum(t.numel() * t.element_size() for t in kept))
        return result

    model.decoder.forward = watched
    generator.generate([model], sample)
    return max(states)


def test_the_backend_is_chosen_by_the_subsampled_length(monkeypatch):
    model = build_speech_model("s2t_transformer", WORDS, seed=1)
    fairseq_el.enable_el_attention(model, "auto")
    lengths = []
    module = "fairseq_el.generation.generator.choose_for_batch"
    monkeypatch.setattr(module, lambda model, count, beam, length, *more: lengths.append(length) or "el")
    generator = ELSequenceGenerator([model], WORDS, beam_size=2, max_len_b=3)
    generator.generate([model], speech_batch([31, 9], seed=3))
    generator = ELSequenceGenerator(
        [fairseq_el.enable_el_attention(build_model("transformer", WORDS, 1), "auto")], WORDS
    )
    generator.new_state(generator.model.models[0], 1, 31, 3)
    assert lengths == [8, 31]
