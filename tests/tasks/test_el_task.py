from __future__ import annotations

import argparse
import copy
import re

import pytest
import torch
from commands import documented_python
from fairseq.sequence_scorer import SequenceScorer
from fairseq.tasks import TASK_REGISTRY
from tiny import TinyELTask, TinyTask, batch, build_language_model, build_model, dictionary

import fairseq_el
from fairseq_el.decoding import linears
from fairseq_el.generation import ELSequenceGenerator
from fairseq_el.ops import why_no_int8
from fairseq_el.tasks import ELTask

WORDS = dictionary()
SOME = argparse.Namespace(beam=2, max_len_b=5)


class BuildingTask(TinyTask):
    """A task that builds models from a checkpoint's settings, as fairseq calls it."""

    def build_model(self, cfg, from_checkpoint=False):
        return build_model("transformer", self.words, seed=1)


class BuildingELTask(ELTask, BuildingTask):
    pass


def test_enables_el_attention_and_takes_over_the_generator():
    models = [build_model("transformer", WORDS, seed=1), build_model("bart_base", WORDS, seed=2)]
    generator = TinyELTask(WORDS).build_generator(models, SOME)
    assert type(generator) is ELSequenceGenerator and generator.beam_size == 2
    assert fairseq_el.el_attention_enabled(models)


def test_another_task_as_in_the_readme():
    names = {}
    exec(documented_python("ELMyTask"), names)
    assert TASK_REGISTRY["el_my_task"] is names["ELMyTask"]
    task = names["ELMyTask"](names["TranslationFromPretrainedXLMConfig"](), WORDS, WORDS)
    model = build_model("transformer", WORDS, seed=1)
    assert type(task.build_generator([model], SOME)) is ELSequenceGenerator and fairseq_el.el_attention_enabled(model)


def test_a_scorer_stays_a_scorer():
    models = [build_model("transformer", WORDS, seed=1)]
    assert type(TinyELTask(WORDS).build_generator(models, argparse.Namespace(score_reference=True))) is SequenceScorer


def test_never_falls_back_silently():
    model = build_model("transformer", WORDS, seed=1, cross_self_attention=True, no_cross_attention=True)
    with pytest.raises(fairseq_el.UnsupportedModelError, match="no encoder-decoder attention"):
        TinyELTask(WORDS).build_generator([model], SOME)


def test_options_reach_model_and_generator():
    model = build_language_model(WORDS, seed=1)
    for kind, attention in (("kv", "KVSelfAttention"), ("el", "ELSelfAttention"), ("kv", "KVSelfAttention")):
        task = TinyELTask(WORDS, argparse.Namespace(el_self_attention=kind, el_encoder_tokens=77))
        assert task.build_generator([model], SOME).encoder_tokens == 77
        assert {type(layer.self_attn).__name__ for layer in model.decoder.layers} == {attention}


@pytest.mark.parametrize("number", [0, -5])
def test_a_number_of_encoder_tokens_that_makes_no_sense(number):
    task = TinyELTask(WORDS, argparse.Namespace(el_encoder_tokens=number))
    with pytest.raises(fairseq_el.OptionError, match=rf"--el-encoder-tokens must be at least 1; it is {number}"):
        task.build_generator([build_model("transformer", WORDS, seed=1)], SOME)


@pytest.mark.parametrize("name", ["el_translation_from_pretrained_bart", "el_translation_multi_simple_epoch"])
def test_older_tasks_have_the_options_too(name):
    parser = argparse.ArgumentParser(allow_abbrev=False)
    TASK_REGISTRY[name].add_args(parser)
    args, _ = parser.parse_known_args(["data", "--el-self-attention", "el", "--el-encoder-tokens", "12"])
    assert (args.el_self_attention, args.el_encoder_tokens) == ("el", 12)


def test_a_task_with_its_own_generator_keeps_it():
    class OwnGenerator(ELSequenceGenerator):
        pass

    class OwnTask(TinyTask):
        def build_generator(self, models, args, **kwargs):
            return OwnGenerator(models, self.words, beam_size=3, max_len_b=5)

    class OwnELTask(ELTask, OwnTask):
        pass

    model = build_model("bart_base", WORDS, seed=1)
    expected = OwnTask(WORDS).build_generator([copy.deepcopy(model)], SOME).generate([], batch(WORDS, [4, 2], seed=1))
    generator = OwnELTask(WORDS).build_generator([model], SOME)
    assert type(generator) is OwnGenerator and fairseq_el.el_attention_enabled(model)
    mine = generator.generate([], batch(WORDS, [4, 2], seed=1))
    assert [[h["tokens"].tolist() for h in hs] for hs in mine] == [
        [h["tokens"].tolist() for h in hs] for hs in expected
    ]


def test_weights_for_other_dictionaries():
    weights = build_model("transformer", dictionary(18), seed=1).state_dict()
    model = BuildingELTask(WORDS).build_model(None, from_checkpoint=True)
    with pytest.raises(fairseq_el.CheckpointMismatchError) as mismatch:
        model.load_state_dict(weights)
    assert "encoder: 22 in the checkpoint, 20 in the data" in str(mismatch.value)
    assert "decoder: 22 in the checkpoint, 20 in the data" in str(mismatch.value)
    model.load_state_dict(build_model("transformer", WORDS, seed=2).state_dict())


def test_batches_lose_no_sentence():
    """fairseq 0.12.3 drops a last batch that is not a multiple of 8; validation and test data must be whole."""
    sample = batch(WORDS, [3] * 13, seed=1)
    task = TinyELTask(WORDS)
    dataset = task_dataset(sample)
    task.datasets = {"test": dataset}
    iterator = task.get_batch_iterator(dataset, max_sentences=8, required_batch_size_multiple=8)
    assert sorted(len(ids) for ids in iterator.frozen_batches) == [5, 8]
    task = TinyELTask(WORDS)
    task.datasets = {"train": dataset}
    stock = TinyTask(WORDS).get_batch_iterator(dataset, max_sentences=8, required_batch_size_multiple=8)
    training = {"skip_remainder_batch": False, "grouped_shuffling": False, "update_epoch_batch_itr": False}
    mine = task.get_batch_iterator(dataset, max_sentences=8, required_batch_size_multiple=8, **training)
    assert [list(ids) for ids in mine.frozen_batches] == [list(ids) for ids in stock.frozen_batches]


def task_dataset(sample):
    from fairseq.data import LanguagePairDataset

    sources = list(sample["net_input"]["src_tokens"])
    return LanguagePairDataset(sources, [len(s) for s in sources], WORDS, tgt_dict=WORDS)


@pytest.mark.parametrize(("name", "dtype"), [("fp64", torch.float64), ("fp32", torch.float32)])
def test_dtype_of_models(name, dtype):
    model = build_model("transformer", WORDS, seed=1).to(torch.float32)
    task = TinyELTask(WORDS, argparse.Namespace(el_dtype=name))
    generator = task.build_generator([model], SOME)
    assert {parameter.dtype for parameter in model.parameters()} == {dtype}
    assert all(hypotheses for hypotheses in generator.generate([model], batch(WORDS, [4, 2], seed=1)))


def test_a_dtype_that_the_processor_lacks(monkeypatch, caplog):
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    model = build_model("transformer", WORDS, seed=1).to(torch.float64)
    with caplog.at_level("INFO", logger="fairseq_el"):
        TinyELTask(WORDS, argparse.Namespace(el_dtype="bf16")).build_generator([model], SOME)
    assert next(model.parameters()).dtype == torch.float32
    assert [r.getMessage() for r in caplog.records if "--el-dtype bf16" in r.getMessage()] == [
        f"--el-dtype bf16: torch {torch.__version__} has no fast bf16 products for this processor; fp32 is used"
    ]


def test_backend_and_budget(caplog):
    model = build_model("transformer", WORDS, seed=1)
    config = argparse.Namespace(el_backend="auto", el_memory_budget="1KiB", el_ngram_blocking="stock")
    with caplog.at_level("INFO", logger="fairseq_el"):
        generator = TinyELTask(WORDS, config).build_generator([model], SOME)
        assert generator.memory_budget == 1024 and generator.ngram_blocking_as_stock
        generator.generate([model], batch(WORDS, [4, 2], seed=1))
        generator.generate([model], batch(WORDS, [4, 2], seed=1))
    assert sum("--el-backend auto: " in record.getMessage() for record in caplog.records) == 1
    with pytest.raises(fairseq_el.OptionError, match=r"--el-memory-budget: a size is a number with a unit.*'lots'"):
        TinyELTask(WORDS, argparse.Namespace(el_memory_budget="lots")).build_generator([model], SOME)


def test_weights_in_8_bits():
    if why_no_int8("cpu"):
        pytest.skip(why_no_int8("cpu"))
    model = build_model("transformer", WORDS, seed=1).to(torch.float32)
    sample = batch(WORDS, [4, 2], seed=1)
    found = {}
    for weights in ("as-loaded", "int8"):
        generator = TinyELTask(WORDS, argparse.Namespace(el_weights=weights)).build_generator([model], SOME)
        hypotheses = generator.generate([model], sample)
        found[weights] = [float(best["positional_scores"][0]) for best, *_ in hypotheses]
    assert found["int8"] != found["as-loaded"]
    assert found["int8"] == pytest.approx(found["as-loaded"], abs=0.05)


@pytest.mark.parametrize("dtype", ["bf16", "fp16", "fp64"])
def test_weights_in_8_bits_need_float32(dtype):
    task = TinyELTask(WORDS, argparse.Namespace(el_weights="int8", el_dtype=dtype))
    with pytest.raises(fairseq_el.OptionError, match=rf"--el-weights int8 needs --el-dtype fp32 .* it is {dtype}\."):
        task.build_generator([build_model("transformer", WORDS, seed=1)], SOME)
    task = TinyELTask(WORDS, argparse.Namespace(el_weights="int8"))
    reason = linears.why_no_int8("cpu") or "the model is in float64"  # the operators are looked for first
    with pytest.raises(fairseq_el.OptionError, match=re.escape(f"--el-weights int8 can't be used: {reason}")):
        task.build_generator([build_model("transformer", WORDS, seed=1).double()], SOME)


def test_weights_in_8_bits_where_there_are_none(monkeypatch):
    monkeypatch.setattr(linears, "why_no_int8", lambda device: f"no such products on {device}")
    task = TinyELTask(WORDS, argparse.Namespace(el_weights="int8"))
    with pytest.raises(fairseq_el.OptionError) as caught:
        task.build_generator([build_model("transformer", WORDS, seed=1)], SOME)
    assert str(caught.value) == "--el-weights int8 can't be used: no such products on cpu. Leave the option out."
