"""A checkpoint that does not fit the task or the data: the message says which of them is wrong."""

from __future__ import annotations

import argparse

import pytest
from tiny import build_language_model, build_model, dictionary, settings
from tiny_data import write_pairs

import fairseq_el  # noqa: F401
from fairseq_el.errors import CheckpointMismatchError
from fairseq_el.tasks import (
    ELLanguageModelingTask,
    ELTranslationFromPretrainedBARTTask,
    ELTranslationMultiSimpleEpochTask,
    ELTranslationTask,
)


def message(task, weights, **saved):
    """What is said when weights are loaded into the model of a task, as fairseq-generate does it."""
    cfg = settings("transformer")
    vars(cfg).update(saved)
    model = task.build_model(cfg, from_checkpoint=True)
    with pytest.raises(CheckpointMismatchError) as caught:
        model.load_state_dict(weights)
    return str(caught.value)


def weights_for(task):
    """Of a model that was trained with a task."""
    return task.build_model(settings("transformer"), from_checkpoint=True).state_dict()


def mbart(langs, words=16):
    args = argparse.Namespace(langs=langs, source_lang="aa", target_lang="bb", eval_bleu=False)
    return ELTranslationFromPretrainedBARTTask(args, dictionary(words), dictionary(words))


def test_languages_of_mbart():
    weights = weights_for(mbart("aa,bb,cc,dd"))
    said = message(mbart("aa,bb,dd"), weights)
    assert "encoder: 25 in the checkpoint, 24 in the data" in said
    assert "--langs must list the languages that the model was trained with, in their order: 4 if the dictiona" in said
    assert "with 20 words beside languages; it lists 3" in said
    assert "it lists 5" in message(mbart("aa,bb,cc,dd,ee"), weights)
    said = message(mbart("aa,bb,dd"), weights, langs="aa,bb,cc,dd")
    assert said.endswith("in their order: it lacks cc. Give aa,bb,cc,dd") and "--srcdict" not in said
    said = message(mbart("aa,bb,zz"), weights, langs="aa,bb,cc,dd")
    assert "it lacks cc, dd and the model does not have zz. Give aa,bb,cc,dd" in said


def test_dictionaries_of_mbart():
    """The checkpoint says that its languages are these."""
    said = message(mbart("aa,bb", words=14), weights_for(mbart("aa,bb")), langs="aa,bb")
    assert "--langs" not in said and "--srcdict" in said
    assert "--langs" not in message(mbart("aa,bb", words=30), weights_for(mbart("aa,bb")))  # too many words alone


def test_languages_in_another_order(caplog):
    cfg = settings("transformer")
    cfg.langs = "aa,bb,cc"
    mbart("aa,cc,bb").build_model(cfg, from_checkpoint=True)
    (said,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert said == "--langs lists the languages in another order than the model was trained with: aa,bb,cc"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_pairs(tmp_path_factory.mktemp("data"), {"train": 1, "test": 1})


def multilingual(data, *options):
    parser = argparse.ArgumentParser()
    parser.add_argument("--dataset-impl")
    ELTranslationMultiSimpleEpochTask.add_args(parser)
    required = [str(data), "-s", "aa", "-t", "bb", "--lang-pairs", "aa-bb", "--encoder-langtok", "src"]
    args = parser.parse_args([*required, "--decoder-langtok", *options])
    args.seed, args.task = 1, "el_translation_multi_simple_epoch"
    return ELTranslationMultiSimpleEpochTask.setup_task(args)


def test_languages_of_multilingual_tasks(data, tmp_path):
    weights = weights_for(multilingual(data, "--langs", "aa,bb,cc,dd"))
    said = message(multilingual(data, "--langs", "aa,bb,dd"), weights)
    assert "--langs must list the languages" in said and "4 if the dictionaries are" in said and "it lists 3" in said
    assert "--lang-pairs must list the languages" in message(multilingual(data), weights)
    (tmp_path / "langs.txt").write_text("aa\nbb\n")
    said = message(
        multilingual(data, "--lang-dict", str(tmp_path / "langs.txt")), weights, langs=["aa", "bb", "cc", "dd"]
    )
    assert said.endswith("it lacks cc, dd. Give aa,bb,cc,dd") and "--lang-dict must list" in said


def test_the_dictionary_of_m2m(data, tmp_path):
    for size in (16, 40):
        dictionary(size).save(str(tmp_path / f"{size}.txt"))
    languages = ["--langs", "aa,bb"]
    weights = weights_for(multilingual(data, *languages, "--fixed-dictionary", str(tmp_path / "40.txt")))
    said = message(multilingual(data, *languages), weights, langs=["aa", "bb"])
    assert "encoder: 46 in the checkpoint, 22 in the data" in said and "--langs" not in said
    assert "with --fixed-dictionary FILE" in said
    fixed = ["--fixed-dictionary", str(tmp_path / "16.txt")]
    said = message(multilingual(data, *languages, *fixed), weights, langs=["aa", "bb"])
    assert f"--fixed-dictionary {tmp_path / '16.txt'} must be the model's own" in said


def test_source_and_target_exchanged():
    def translation(source, target, words, other):
        cfg = argparse.Namespace(source_lang=source, target_lang=target, eval_bleu=False)
        return ELTranslationTask(cfg, dictionary(words), dictionary(other))

    weights = weights_for(translation("aa", "bb", 16, 30))
    said = message(translation("bb", "aa", 30, 16), weights)
    assert "encoder: 20 in the checkpoint, 34 in the data" in said
    assert said.endswith("Source and target are exchanged: give -s aa -t bb")
    assert "--srcdict" in message(translation("aa", "bb", 30, 31), weights)


def test_a_language_model_for_a_task_that_translates_and_the_other_way_round():
    cfg = settings("transformer_lm", tokens_per_sample=64, decoder_input_dim=16, decoder_output_dim=16)
    task = ELTranslationTask(argparse.Namespace(eval_bleu=False), dictionary(), dictionary())
    with pytest.raises(
        CheckpointMismatchError, match=r"is a language model \(transformer_lm\), .*--task el_language_mod"
    ):
        task.build_model(cfg, from_checkpoint=True)
    args = argparse.Namespace(add_bos_token=False, tokens_per_sample=64)
    lm_task = ELLanguageModelingTask(args, dictionary(), targets=["future"])
    with pytest.raises(
        CheckpointMismatchError, match=r"is a model with encoder and decoder \(transf.*--task el_transla"
    ):
        lm_task.build_model(settings("transformer"), from_checkpoint=True)
    lm_task.build_model(cfg, from_checkpoint=True).load_state_dict(build_language_model(dictionary(), 1).state_dict())
    task.build_model(settings("transformer"), from_checkpoint=True).load_state_dict(
        build_model("transformer", dictionary(), 1).state_dict()
    )
