"""The native step where something is out of the ordinary: edges, changes between batches, failures, what it refuses."""

from __future__ import annotations

import argparse
import logging
import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from fairseq.ngram_repeat_block import NGramRepeatBlock
from fairseq.sequence_generator import SequenceGenerator
from steps import in_python, natively, skip_unless_compiled
from test_against_reference import assert_same
from tiny import TinyELTask, batch, build_language_model, build_model, dictionary

import fairseq_el
from fairseq_el._compat import torch_version
from fairseq_el.errors import NoHypothesisError
from fairseq_el.generation import ELSequenceGenerator, TransformersRules, loop
from fairseq_el.generation import native_step as module
from fairseq_el.ops import can_pack, why_no_int8

extension = skip_unless_compiled()

WORDS = dictionary()
EXACT = {"rtol": 0, "atol": 1e-10}
SOME = {"beam_size": 3, "max_len_b": 12}
LENGTHS = [5, 2, 7, 1]


def make(arch: str = "transformer", dtype: torch.dtype = torch.float64, words: Any = WORDS, **options: Any) -> Any:
    model = build_model(arch, words, 6, dtype, **options)
    return fairseq_el.enable_el_attention(model.requires_grad_(False))


def generator_of(model: Any, words: Any = WORDS, **options: Any) -> Any:
    generator = ELSequenceGenerator([model], words, **{**SOME, **options})
    generator.record_attention = False
    return generator


def both(generator: Any, sample: Any = None, **given: Any) -> list[Any]:
    """Hypotheses that native code finds, and the Python way."""
    sample = batch(WORDS, LENGTHS, seed=3) if sample is None else sample
    results = []
    for way in (natively, in_python):
        with way():
            results.append(generator.generate(list(generator.model.models), sample, **given))
    return results


def tokens(found: Any) -> Any:
    return [[h["tokens"].tolist() for h in hypotheses] for hypotheses in found]


# Edges


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
def test_a_thousand_steps(own):
    model = make(decoder_layers=1, max_target_positions=1024)
    fairseq_el.enable_el_attention(model, self_attention=own)
    found, expected = both(generator_of(model, beam_size=2, min_len=1000, max_len_b=1000), batch(WORDS, [4], seed=3))
    assert_same(found, expected, **EXACT)
    assert [h["tokens"].numel() for h in found[0]] == [1001, 1001]


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


@pytest.mark.parametrize("level", ["plain", "avx2", "avx512"])
def test_levels_of_instructions(level):
    """The comparison with the Python way, in a process of its own: the level is chosen once."""
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


# 16 bits


@pytest.mark.parametrize(("backend", "own"), [("shared-kv", "kv"), ("el", "el")])
def test_bfloat16_errs_at_most_twice_as_much_as_the_python_way(backend, own):
    """Log-probabilities of the words of each way's hypotheses, against those of the same weights in float64."""
    errors = {natively: [], in_python: []}
    for seed in range(8):
        model = build_model("transformer", WORDS, seed, torch.bfloat16, decoder_embed_dim=32).requires_grad_(False)
        sample = batch(WORDS, [5, 2, 7, 1, 9, 12, 3, 3], seed=seed)
        stock = build_model("transformer", WORDS, seed, decoder_embed_dim=32)
        stock.load_state_dict(model.state_dict())
        fairseq_el.enable_el_attention(model, backend, own)
        for way, found in errors.items():
            with way():
                decoded = generator_of(model, beam_size=4).generate([model], sample)
            for i, hypotheses in enumerate(decoded):
                source = {name: values[i : i + 1] for name, values in sample["net_input"].items()}
                for hypothesis in hypotheses:
                    words = hypothesis["tokens"].unsqueeze(0)
                    before = words.roll(1, dims=1)  # the eos is the first symbol too
                    with torch.no_grad():
                        logits = stock(source["src_tokens"], source["src_lengths"], before)[0]
                    exact = torch.log_softmax(logits, dim=2)[0].gather(1, words[0].unsqueeze(1))[:, 0]
                    found.append((hypothesis["positional_scores"].double() - exact).abs())
    mine, theirs = (torch.cat(errors[way]) for way in (natively, in_python))
    assert 0 < mine.max() <= 2 * theirs.max()
    assert mine.square().mean().sqrt() <= 2 * theirs.square().mean().sqrt()


# 8 bits

in_int8 = pytest.mark.skipif(bool(why_no_int8("cpu")), reason=why_no_int8("cpu"))


@in_int8
@pytest.mark.parametrize("backend", ["el", "shared-kv"])
@pytest.mark.parametrize("options", [{}, {"activation_fn": "gelu", "decoder_normalize_before": True}], ids=str)
def test_weights_in_8_bits_give_the_hypotheses_of_the_python_way(options, backend):
    """A number between two whole ones may be rounded either way; with these models it decides nothing.

    Self-attention ``el`` is left out: in Python, the first words' keys and values are products in 8 bits.
    """
    model = fairseq_el.enable_el_attention(make(dtype=torch.float32, **options), backend, "kv")
    generator = generator_of(model, beam_size=4)
    generator.int8_weights = True
    found, expected = both(generator)
    assert tokens(found) == tokens(expected)
    assert_same(found, expected, rtol=1e-4, atol=1e-4)
    generator.int8_weights = False
    plain = both(generator)[0]
    assert [float(h[0]["score"]) for h in plain] != [float(h[0]["score"]) for h in found]


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


# Changes between batches


def wide(dtype: torch.dtype = torch.float32) -> Any:
    """A model some of whose weights are packed, in float32, with 40 rows."""
    return make(dtype=dtype, decoder_embed_dim=64, decoder_ffn_embed_dim=2048, decoder_layers=1)


@pytest.mark.parametrize("for_inference_only", [False, True])
@pytest.mark.parametrize(
    "name",
    ["embed_tokens.weight", "layers.0.fc1.weight", "layers.0.fc2.bias", "layers.0.self_attn.k_proj.weight",
     "layers.0.encoder_attn.v_proj.bias", "layers.0.final_layer_norm.weight"],
)  # fmt: skip
def test_weights_that_change_in_place_are_seen(name, for_inference_only):
    model = wide()
    if for_inference_only:
        model.make_generation_fast_()
    generator = generator_of(model, beam_size=4, max_len_b=40)
    sample = batch(WORDS, list(range(1, 11)), seed=3)
    before, _ = both(generator, sample)
    weight = dict(model.decoder.named_parameters())[name]
    weight.mul_(-1.5)
    after, expected = both(generator, sample)
    assert_same(after, expected, rtol=1e-5, atol=2e-5)
    assert [float(h[0]["score"]) for h in after] != [float(h[0]["score"]) for h in before]
    setattr(
        model.decoder.get_submodule(name.rpartition(".")[0]), name.rpartition(".")[2], torch.nn.Parameter(weight / -1.5)
    )
    assert_same(both(generator, sample)[0], before, rtol=1e-5, atol=2e-5)


@pytest.mark.skipif(not can_pack("cpu", torch.float32), reason="this torch does not pack weights on this processor")
def test_packed_weights_are_among_those():
    model, packed = wide(), []
    original = module.native_model

    def described(*args: Any) -> Any:
        packed.append(original(*args).decoder.layers[0].up.packed)
        return original(*args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "native_model", described)
        both(generator_of(model, beam_size=4, max_len_b=40), batch(WORDS, list(range(1, 11)), seed=3))
    assert isinstance(packed[0], torch.Tensor)


def test_two_generators_share_a_model():
    model = make()
    narrow, wider = generator_of(model, beam_size=2), generator_of(model, beam_size=5, max_len_b=6)
    for generator in (narrow, wider, narrow):
        assert_same(*both(generator), **EXACT)


def test_disabling_el_attention_and_enabling_it_again(monkeypatch, caplog):
    model = make()
    generator = generator_of(model)
    expected = tokens(both(generator)[0])
    fairseq_el.disable_el_attention(model)
    assert "the models are not one EL model" in logged(monkeypatch, caplog, generator, expected=expected)
    fairseq_el.enable_el_attention(model)
    assert tokens(both(generator)[0]) == expected


def model_with_hooks(dtype: torch.dtype) -> Any:
    return make(dtype=dtype, layernorm_embedding=True, decoder_normalize_before=True, encoder_normalize_before=True)


@pytest.mark.parametrize("name", [name for name, _ in model_with_hooks(torch.float32).named_modules() if name])
@pytest.mark.parametrize("kind", ["register_forward_hook", "register_forward_pre_hook", "forward"])
def test_hooks_are_called_as_by_the_python_way(name, kind):
    """Whichever module of a model has one."""
    counts = []
    for native in ("1", "0"):
        calls = []
        model = model_with_hooks(torch.float32)
        hooked = model.get_submodule(name)
        if kind == "forward":
            forward = hooked.forward
            hooked.forward = lambda *args, forward=forward, calls=calls, **more: (
                calls.append(1),
                forward(*args, **more),
            )[1]
        else:
            getattr(hooked, kind)(lambda *args, calls=calls: calls.append(1))
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("FAIRSEQ_EL_NATIVE", native)
            generator_of(model).generate([model], batch(WORDS, LENGTHS, seed=3))
        counts.append(len(calls))
    assert counts[0] == counts[1]


# Failures


class StopError(Exception):
    pass


@pytest.mark.parametrize("threads", [1, 2])
def test_a_signal_ends_a_batch(threads, monkeypatch):
    """As Ctrl-C does. The first one is only noted, while the batch goes on; the second ends it.

    Without an end, the batch would take minutes.
    """
    noted, returned, original = threading.Event(), [], extension.decode

    def decode(*args: Any) -> Any:
        sender.start()
        result = original(*args)
        returned.append(result)
        return result

    def handle(number: int, frame: Any) -> None:
        if noted.is_set():
            raise StopError
        noted.set()

    def send() -> None:
        signal.raise_signal(signal.SIGUSR1)
        noted.wait()
        signal.raise_signal(signal.SIGUSR1)

    sender = threading.Thread(target=lambda: send(), daemon=True)
    monkeypatch.setattr(extension, "decode", decode)
    model = make(max_target_positions=3000)
    generator = generator_of(model, beam_size=5, min_len=2900, max_len_b=2900)
    before, known = torch.get_num_threads(), signal.signal(signal.SIGUSR1, handle)
    torch.set_num_threads(threads)
    try:
        with natively(), pytest.raises(StopError):
            generator.generate([model], batch(WORDS, [5] * 64, seed=3))
    finally:
        torch.set_num_threads(before)
        signal.signal(signal.SIGUSR1, known)
    assert returned == []
    monkeypatch.setattr(extension, "decode", original)
    with natively():  # nothing is broken
        assert len(generator_of(model).generate([model], batch(WORDS, LENGTHS, seed=3))) == 4


@pytest.mark.parametrize(
    "error",
    [
        MemoryError("std::bad_alloc"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:118] . DefaultCPUAllocator: not enough memory"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_batch_that_does_not_fit_is_decoded_in_halves(error, monkeypatch, caplog):
    generator, sizes, original = generator_of(make()), [], extension.decode
    expected = both(generator)[1]

    def decode(*args: Any) -> Any:
        sizes.append(len(args[2]))
        if sizes[-1] > 2:
            raise error
        return original(*args)

    monkeypatch.setattr(extension, "decode", decode)
    with natively():
        found = generator.generate(list(generator.model.models), batch(WORDS, LENGTHS, seed=3))
    assert_same(found, expected, **EXACT)
    assert sizes == [4, 2, 2] and "ran out of memory" in caplog.text


def test_another_error_of_native_code_is_not_hidden(monkeypatch):
    def decode(*args: Any) -> Any:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    monkeypatch.setattr(extension, "decode", decode)
    model = make()
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        generator_of(model).generate([model], batch(WORDS, LENGTHS, seed=3))


# What it refuses


def logged(monkeypatch: Any, caplog: Any, generator: Any, expected: Any = None, **given: Any) -> str:
    """What is said, once, about two batches that native code does not decode; they get the Python way's hypotheses."""
    monkeypatch.setattr(loop, "_logged", set())
    caplog.clear()
    models, sample = list(generator.model.models), batch(WORDS, LENGTHS, seed=3)
    with caplog.at_level(logging.INFO, logger=loop.__name__):
        found = [tokens(generator.generate(models, sample, **given)) for _ in range(2)]
    with in_python():
        assert found == [tokens(generator.generate(models, sample, **given))] * 2
    assert expected is None or found[0] == expected
    (message,) = [record.getMessage() for record in caplog.records if record.name == loop.__name__]
    return message.replace("A batch is not decoded by NativeStep: ", "")


class OwnBlocker(NGramRepeatBlock):
    pass


def with_blocker(generator: Any) -> None:
    generator.repeat_ngram_blocker = OwnBlocker(2)


def with_own(name: str, change: Any) -> Any:
    def changed(generator: Any) -> None:
        change(getattr(generator.model.single_model.decoder, name))

    return changed


def without_weights(generator: Any) -> None:
    generator.model.single_model.decoder.layers[0].final_layer_norm.weight = None


def with_another(name: str, new: Any) -> Any:
    def changed(generator: Any) -> None:
        parent, _, child = name.rpartition(".")
        known = generator.model.single_model.decoder.get_submodule(name)
        setattr(generator.model.single_model.decoder.get_submodule(parent), child, new(known))

    return changed


class OwnLinear(torch.nn.Linear):
    pass


def own_linear(linear: Any) -> Any:
    result = OwnLinear(linear.in_features, linear.out_features, linear.bias is not None).to(linear.weight)
    result.load_state_dict(linear.state_dict())
    return result.requires_grad_(False)


def settings(**values: Any) -> Any:
    return lambda generator: [setattr(generator, name, value) for name, value in values.items()]


REFUSED = {
    "attention is recorded": (settings(record_attention=True), {}),
    "somebody watches every step": (settings(on_step=lambda step, states: None), {}),
    "repeated n-grams are left to fairseq's module": (with_blocker, {}),
    "the search is not fairseq's plain beam search": (settings(transformers_rules=TransformersRules()), {}),
    "the output projection is a OwnLinear": (with_another("output_projection", own_linear), {}),
    "a layer has a OwnLinear in the place of nn.Linear": (with_another("layers.0.fc1", own_linear), {}),
    "a module of the decoder has hooks": (
        lambda generator: generator.model.single_model.decoder.layer_norm.register_forward_hook(lambda *args: None),
        {"decoder_normalize_before": True},
    ),
    "the activation is": (
        lambda generator: setattr(generator.model.single_model.decoder.layers[1], "activation_fn", torch.sigmoid),
        {},
    ),
    "with modules that fairseq's own has not": (lambda generator: None, {"scale_heads": True}),
    "the models are not one EL model": (lambda generator: None, {"adaptive_softmax_cutoff": "8,14"}),
}


@pytest.mark.parametrize("reason", REFUSED)
def test_what_native_code_refuses_is_said_once(reason, monkeypatch, caplog):
    change, options = REFUSED[reason]
    generator = generator_of(make(share_decoder_input_output_embed=False, **options))
    change(generator)
    assert reason in logged(monkeypatch, caplog, generator)


def test_prefixes_with_an_end_in_them(monkeypatch, caplog):
    prefix = torch.tensor([[5, 6], [7, 2], [8, 1], [9, 4]])
    assert "prefixes can't be read in one pass" in logged(
        monkeypatch, caplog, generator_of(make()), prefix_tokens=prefix
    )


def test_ngrams_as_stock(monkeypatch, caplog):
    generator = generator_of(make(), no_repeat_ngram_size=2)
    generator.ngram_blocking_as_stock = True
    assert "repeated n-grams are left" in logged(monkeypatch, caplog, generator)


def test_two_models(monkeypatch, caplog):
    generator = ELSequenceGenerator([make(), make("bart_base")], WORDS, **SOME)
    generator.record_attention = False
    assert "the models are not one EL model" in logged(monkeypatch, caplog, generator)


def test_other_searches(monkeypatch, caplog):
    model = make()
    options = argparse.Namespace(beam=4, max_len_b=6, diverse_beam_groups=2)
    generator = TinyELTask(WORDS).build_generator([model], options)
    generator.record_attention = False
    assert "the search is not fairseq's plain beam search" in logged(monkeypatch, caplog, generator)


def test_a_language_model_beside_the_model(monkeypatch, caplog):
    language_model = build_language_model(WORDS, seed=1)
    generator = generator_of(make(), lm_model=language_model, lm_weight=0.3)
    assert "a language model has a say" in logged(monkeypatch, caplog, generator)


def test_several_dtypes(monkeypatch, caplog):
    """fairseq's layers can't compute with them either; a decoder whose positions are in another can."""
    model = make(decoder_learned_pos=True)
    model.decoder.embed_positions.float()
    message = logged(monkeypatch, caplog, generator_of(model))
    assert "the decoder is in torch.float32, torch.float64, not in float64, float32 or bfloat16" in message


def test_recorded_gradients():
    from fairseq_el.generation.native_step import NativeStep

    model, reasons = make(), []
    original = NativeStep.refusal.__func__

    def refusal(cls: Any, *args: Any) -> Any:
        reasons.append(original(cls, *args))
        return reasons[-1]

    with pytest.MonkeyPatch.context() as patch, torch.enable_grad():
        patch.setattr(NativeStep, "refusal", classmethod(refusal))
        generator_of(model)._generate(batch(WORDS, LENGTHS, seed=3))
    assert reasons == ["gradients are recorded"]


def test_switched_off(monkeypatch, caplog):
    monkeypatch.setenv("FAIRSEQ_EL_NATIVE", "0")
    assert logged(monkeypatch, caplog, generator_of(make())) == "there is no native code"
