from __future__ import annotations

import argparse

import pytest
import torch
from fairseq.sequence_scorer import SequenceScorer
from tiny import build_slim_performer, dictionary

from fairseq_el.errors import CheckpointMismatchError, OptionError
from fairseq_el.slim import SlimCrossEntropyCriterion
from fairseq_el.slim.copying import CopyingTask
from fairseq_el.tasks.checkpoint_checks import check_dictionaries_on_load
from fairseq_el.tasks.option_checks import CommandLine

OPTIONS = {"tokens_per_sample": 12, "copy_symbols": 9, "copy_examples": 5, "copy_valid_examples": 3, "seed": 1}


def load(split, **options):
    task = CopyingTask.setup_task(argparse.Namespace(data=".", **{**OPTIONS, **options}))
    return task.load_dataset(split), task.dictionary


def test_the_second_half_is_predicted_and_equals_the_first():
    dataset, dictionary = load("train")
    assert len(dataset) == 5
    for index in range(5):
        item = dataset[index]
        words = dictionary.string(item["source"]).split()
        assert len(words) == 11 and words[0] == words[6] == "0" and "0" not in words[1:6]
        assert words[1:5] == words[7:11]
        assert item["target"][:5].eq(dictionary.pad()).all()
        assert dictionary.string(item["target"][5:]).split() == words[6:] + words[5:6]
    batch = dataset.collater([dataset[0], dataset[1]])
    assert batch["ntokens"] == 12


def test_a_model_of_other_symbols_is_refused():
    """And what to do is not what the tasks of fairseq-preprocess want."""
    task = CopyingTask.setup_task(argparse.Namespace(data=".", **OPTIONS))
    model, smaller = build_slim_performer(task.dictionary, seed=1), build_slim_performer(dictionary(7), seed=1)
    check_dictionaries_on_load(model, task, CommandLine())
    with pytest.raises(CheckpointMismatchError, match=r"decoder: 11 in the .* 13 in the data\nGive the --copy-symbols"):
        model.load_state_dict(smaller.state_dict())


def test_samples_depend_on_seed_split_epoch_and_number_alone():
    def drawn(split, epoch, **options):
        dataset, _ = load(split, **options)
        dataset.set_epoch(epoch)
        return [dataset[i]["source"].tolist() for i in range(3)]

    first = drawn("train", 1)
    assert first == drawn("train", 1) and first[0] != first[1]
    assert first != drawn("train", 2) and first != drawn("train", 1, seed=2) and first != drawn("valid", 1)
    assert drawn("valid", 1) == drawn("valid", 2)


@pytest.mark.parametrize("batch_size", [1, 2, 3, 16])
def test_an_epoch_has_all_examples(batch_size):
    task = CopyingTask.setup_task(argparse.Namespace(data=".", **OPTIONS))
    task.load_dataset("train")
    batches = task.get_batch_iterator(
        task.dataset("train"), max_sentences=batch_size, required_batch_size_multiple=8, seed=1
    ).next_epoch_itr()
    assert sorted(index for batch in batches for index in batch["id"].tolist()) == [0, 1, 2, 3, 4]


def test_eval_lm_scores_what_training_predicts():
    task = CopyingTask.setup_task(argparse.Namespace(data=".", **OPTIONS))
    task.load_dataset("valid")
    (batch,) = task.eval_lm_dataloader(task.dataset("valid"), batch_size=3, num_workers=0)
    model = build_slim_performer(task.dictionary, seed=1)
    loss, size, _ = SlimCrossEntropyCriterion(task, False, 0, False)(model, batch)
    hypotheses = SequenceScorer(task.dictionary).generate([model], batch)
    scores = torch.cat([hypothesis["positional_scores"] for (hypothesis,) in hypotheses])
    assert len(scores) == size == 18
    assert -float(scores.sum()) == pytest.approx(float(loss))
    with pytest.raises(OptionError, match=r"--task copying has no --context-window.*; it is 4, leave it out"):
        task.eval_lm_dataloader(task.dataset("valid"), batch_size=3, context_window=4)


def test_options_that_make_no_task():
    with pytest.raises(OptionError) as caught:
        load("train", tokens_per_sample=7, copy_symbols=1, copy_examples=0)
    for problem in ("--tokens-per-sample must be even", "--copy-symbols must be at least 2", "--copy-examples must be"):
        assert problem in str(caught.value)
    with pytest.raises(OptionError, match=r"more than a --context-window, .*; what is left is -2"):
        load("train", tokens_per_sample=-2)
    with pytest.raises(OptionError, match="there is no dev"):
        load("dev")
