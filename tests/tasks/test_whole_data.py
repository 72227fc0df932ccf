"""No sentence is lost outside of training, whatever the split is called; shards are disjoint and complete."""

from __future__ import annotations

import re

import pytest
import torch
from commands import hypotheses
from fairseq import options, tasks
from fairseq.dataclass.utils import convert_namespace_to_omegaconf
from fairseq.tasks.translation import TranslationTask
from tiny import dictionary
from tiny_data import WORDS, fairseq, save_checkpoint, write_pairs, write_text

from fairseq_el.errors import FairseqElError, OptionError
from fairseq_el.tasks.whole_data import Shard

SIZES = {"train": 45, "train1": 21, "valid": 13, "test": 5}
BEAM = ["--beam", "2", "--max-len-b", "6", "--batch-size", "16"]
TRAINING = [
    *("--arch", "transformer", "--encoder-layers", "1", "--decoder-layers", "1", "--encoder-embed-dim", "8"),
    *("--decoder-embed-dim", "8", "--encoder-ffn-embed-dim", "8", "--decoder-ffn-embed-dim", "8"),
    *("--encoder-attention-heads", "2", "--decoder-attention-heads", "2", "--optimizer", "sgd", "--lr", "0.1"),
    *("--criterion", "cross_entropy", "--max-epoch", "1", "--batch-size", "16", "--upsample-primary", "1"),
]


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    """A data set, and a checkpoint of a model for it."""
    work = tmp_path_factory.mktemp("pairs")
    return write_pairs(work, SIZES), save_checkpoint(work / "model.pt")


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    work = tmp_path_factory.mktemp("text")
    model = save_checkpoint(work / "model.pt", "transformer_lm", task="el_language_modeling")
    return write_text(work, SIZES), model


def generate(fixture, *options, task="el_translation"):
    data, model = fixture
    return fairseq("generate", data, "--path", model, "--task", task, *BEAM, *options)


@pytest.fixture(scope="module")
def task(pairs):
    """``el_translation`` with all splits loaded."""
    arguments = [str(pairs[0]), "--task", "el_translation", "--path", "model.pt"]
    args = options.parse_args_and_arch(options.get_generation_parser(), arguments)
    task = tasks.setup_task(convert_namespace_to_omegaconf(args).task)
    for split in SIZES:
        task.load_dataset(split)
    return task


def numbers(task, split, **options):
    """The sentences that fairseq-generate gets."""
    options = {"max_sentences": 16, "required_batch_size_multiple": 8, "num_shards": 1, "shard_id": 0, **options}
    batches = task.get_batch_iterator(dataset=task.dataset(split), **options).next_epoch_itr(shuffle=False)
    return [number for batch in batches for number in batch["id"].tolist()]


@pytest.mark.parametrize("split", SIZES)
@pytest.mark.parametrize("limits", [{}, {"max_tokens": 40}, {"max_sentences": None, "max_tokens": 33}])
def test_every_sentence_of_every_split_is_in_a_batch(task, split, limits):
    assert sorted(numbers(task, split, **limits)) == list(range(SIZES[split]))


@pytest.mark.parametrize("shards", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("split", ["train", "test"])
def test_shards_are_disjoint_and_whole(task, split, shards, monkeypatch):
    """Whatever their batch sizes and seeds; of five sentences in one batch, too."""
    found = []
    for number in range(shards):
        monkeypatch.setattr(task, "shard", Shard(number, shards))
        part = numbers(task, split, max_sentences=16 - 3 * number, seed=number)
        assert part
        found += part
    assert sorted(found) == list(range(SIZES[split]))


def test_every_sentence_of_a_split_named_train_is_decoded(pairs):
    assert sorted(hypotheses(generate(pairs, "--gen-subset", "train"))) == list(range(SIZES["train"]))


def test_every_prompt_of_a_split_named_train_is_continued(text):
    options = ["--sample-break-mode", "eos", "--gen-subset", "train", "--prefix-size", "1"]
    output = generate(text, *options, task="el_language_modeling")
    assert sorted(hypotheses(output)) == list(range(SIZES["train"]))


@pytest.fixture
def validated(monkeypatch):
    """The sentences whose loss was computed, without gradients."""
    seen, step = [], TranslationTask.valid_step

    def noted(task, batch, *more):
        seen.extend(batch["id"].tolist())
        return step(task, batch, *more)

    monkeypatch.setattr(TranslationTask, "valid_step", noted)
    return seen


def test_training_is_as_stock_and_validation_is_whole(pairs, tmp_path, validated):
    """66 sentences in batches of 16: stock fairseq 0.12.3 trains on 64 of them in each epoch. No shard is taken."""
    weights = []
    for task in ("translation", "el_translation"):
        validated.clear()
        options = ["--task", task, *TRAINING, "--num-shards", "2", "--shard-id", "1"]
        fairseq("train", pairs[0], *options, "--save-dir", tmp_path / task)
        saved = torch.load(tmp_path / task / "checkpoint_last.pt")["model"]
        weights.append({key: weight for key, weight in saved.items() if "_float_tensor" not in key})  # has no value
    assert all(torch.equal(weight, weights[1][key]) for key, weight in weights[0].items())
    assert sorted(validated) == list(range(SIZES["valid"]))


def test_shards_have_the_hypotheses_of_the_whole(pairs):
    whole = hypotheses(generate(pairs, "--gen-subset", "valid"))
    parts = [
        hypotheses(generate(pairs, "--gen-subset", "valid", "--num-shards", 2, "--shard-id", number))
        for number in (0, 1)
    ]
    assert not parts[0].keys() & parts[1].keys()
    found = {**parts[0], **parts[1]}
    assert found.keys() == whole.keys() == set(range(SIZES["valid"]))
    for number, expected in whole.items():
        assert [words for _, words in found[number]] == [words for _, words in expected]
        assert [score for score, _ in found[number]] == pytest.approx([score for score, _ in expected], abs=1e-4)


def evaluated(caplog, program, *arguments):
    """What the log says was evaluated: tokens, or the batches' sentences."""
    caplog.clear()
    with caplog.at_level("INFO"):
        fairseq(program, *arguments)
    return caplog.text


def test_shards_of_scored_text(text, caplog):
    options = [text[0], "--path", text[1], "--task", "el_language_modeling", "--batch-size", 2]
    options += ["--sample-break-mode", "eos"]
    logs = [
        evaluated(caplog, "eval-lm", *options, *shard)
        for shard in ([], ["--num-shards", 2], ["--num-shards", 2, "--shard-id", 1])
    ]
    whole, *parts = (int(re.findall(r"Evaluated (\d+) tokens", log)[-1]) for log in logs)
    assert whole == sum(parts) and min(parts) > 0


def test_shards_of_validation(pairs, tmp_path, validated):
    """``fairseq-validate`` takes the task from the checkpoint, and the shard from the command line."""
    checkpoint = save_checkpoint(tmp_path / "model.pt", task="el_translation")
    for shard in (0, 1):
        options = [
            "--task",
            "el_translation",
            "--path",
            checkpoint,
            "--valid-subset",
            "train",
            "--num-shards",
            2,
            "--shard-id",
            shard,
        ]
        fairseq("validate", pairs[0], *options, "--batch-size", 16)
    assert sorted(validated) == list(range(SIZES["train"]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--num-shards", "0"], "--num-shards must be at least 1; it is 0"),
        (["--num-shards", "-2"], "--num-shards must be at least 1; it is -2"),
        (["--num-shards", "2", "--shard-id", "2"], "--shard-id must be from 0 to 1, because --num-shards is 2; it"),
        (["--num-shards", "2", "--shard-id", "-1"], "--shard-id must be from 0 to 1, because --num-shards is 2; it"),
        (["--shard-id", "1"], "--shard-id must be from 0 to 0, because --num-shards is 1; it is 1"),
    ],
)  # fmt: skip
def test_shards_that_there_are_not(pairs, options, message):
    with pytest.raises(OptionError, match=re.escape(message)):
        generate((pairs[0], "not-even-looked-at.pt"), *options)


def test_more_shards_than_sentences(pairs):
    with pytest.raises(FairseqElError, match="--num-shards must be at most the number of sentences, 5; it is 7"):
        generate(pairs, "--gen-subset", "test", "--num-shards", "7", "--shard-id", "5")
    assert list(hypotheses(generate(pairs, "--gen-subset", "test", "--num-shards", "7", "--shard-id", "4"))) == [4]


def test_shards_in_two_ways(pairs):
    """The older way, with which fairseq-generate shards by batches."""
    older = ["--distributed-world-size", "2", "--distributed-rank"]
    found = [hypotheses(generate(pairs, "--gen-subset", "train", *older, rank)) for rank in (0, 1)]
    assert sorted([*found[0], *found[1]]) == list(range(SIZES["train"]))
    with pytest.raises(
        OptionError, match=r"--num-shards must be 1 where --distributed-world-size .*; they are 3 and 2"
    ):
        generate(pairs, *older, "0", "--num-shards", "3")


def test_input_that_is_typed_has_no_shards(pairs):
    options = [pairs[0], "--path", pairs[1], "--task", "el_translation", "--num-shards", "2"]
    with pytest.raises(OptionError, match="--num-shards must be 1 for input that is not a split of the data; it is 2"):
        fairseq("interactive", *options, stdin="w1 w2\n")


def test_nothing_that_the_model_could_read(pairs):
    options = ["--max-source-positions", "1", "--max-target-positions", "1", "--skip-invalid-size-inputs-valid-test"]
    with pytest.raises(FairseqElError, match=r"No sentence is left: the split has 45, and .* reads, \(1, 1\) tokens"):
        generate(pairs, "--gen-subset", "train", *options)


OTHER_TASKS = {
    "el_translation_from_pretrained_bart": (["--langs", "aa,bb"], ["[aa]", "[bb]", "<mask>"]),
    "el_translation_multi_simple_epoch": (
        ["--langs", "aa,bb", "--lang-pairs", "aa-bb", "--encoder-langtok", "src", "--decoder-langtok"],
        ["__aa__", "__bb__"],
    ),
}


@pytest.mark.parametrize("task", OTHER_TASKS)
def test_other_tasks(task, pairs, tmp_path):
    """They have iterators of their own."""
    options, symbols = OTHER_TASKS[task]
    words = dictionary(WORDS)
    for symbol in symbols:
        words.add_symbol(symbol)
    fixture = pairs[0], save_checkpoint(tmp_path / "model.pt", words=words)
    options = ["-s", "aa", "-t", "bb", *options, "--gen-subset", "train"]
    whole = hypotheses(generate(fixture, *options, task=task))
    assert sorted(whole) == list(range(SIZES["train"]))
    shards = [hypotheses(generate(fixture, *options, "--num-shards", 2, "--shard-id", i, task=task)) for i in range(2)]
    assert not shards[0].keys() & shards[1].keys()
    joined = {**shards[0], **shards[1]}
    assert {i: [words for _, words in found] for i, found in joined.items()} == {
        i: [words for _, words in found] for i, found in whole.items()
    }
