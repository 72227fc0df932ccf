"""Options with which stock fairseq fails in a traceback: one message with all of them, before the model is read."""

from __future__ import annotations

import argparse
import re

import pytest
import torch
from commands import hypotheses
from fairseq.data import LanguagePairDataset
from tiny import TinyELTask, TinyTask, build_language_model, build_model, dictionary
from tiny_data import fairseq, save_checkpoint, write_pairs, write_text

from fairseq_el.errors import OptionError
from fairseq_el.tasks.command_failures import explain_by_options
from fairseq_el.tasks.option_checks import CommandLine, command_problems

WORDS = dictionary()


def problems(**options):
    arguments = {"path": "model.pt", **options}
    kinds = {name: arguments.pop(name) for name in ("takes_constraints", "continues_prompts") if name in arguments}
    return command_problems(CommandLine(argparse.Namespace(**arguments)), **kinds)


NAN = float("nan")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"beam": 0}, "--beam must be at least 1; it is 0. It is how many hypotheses are kept in each step"),
        ({"beam": -3}, "--beam must be at least 1; it is -3. It is how many hypotheses are kept in each step"),
        ({"nbest": 0}, "--nbest must be at least 1; it is 0, so no hypothesis would be written"),
        ({"bf16": True}, "--bf16 does nothing where a checkpoint is read; --el-dtype bf16 decodes in bfloat16"),
        ({"temperature": 0.0}, "--temperature must be greater than 0; it is 0.0. 1 changes nothing"),
        ({"temperature": NAN}, "--temperature must be a number; it is nan"),
        ({"lenpen": NAN}, "--lenpen must be a number; it is nan"),
        ({"unkpen": NAN}, "--unkpen must be a number; it is nan"),
        ({"max_len_a": NAN}, "--max-len-a must be a number; it is nan"),
        ({"max_len_a": float("inf")}, "--max-len-a must be finite; it is inf"),
        ({"lm_weight": float("inf")}, "--lm-weight must be finite; it is inf"),
        (
            {"print_alignment": "hard", "continues_prompts": True},
            "--print-alignment needs a source beside the output, which language models do not have; leave it out",
        ),
        ({"sampling": True}, "--nbest must be equal to --beam with --sampling; they are 1 and 5"),
        ({"sampling_topk": 3}, "--sampling-topk needs --sampling; it is 3 without. Give both or neither"),
        ({"sampling_topp": 0.5}, "--sampling-topp needs --sampling; it is 0.5 without. Give both or neither"),
        (
            {"sampling": True, "nbest": 5, "diverse_beam_groups": 5},
            "Search parameters are mutually exclusive: choose one of --sampling, --diverse-beam-groups",
        ),
        (
            {"constraints": "ordered", "diversity_rate": 0.0},
            "Search parameters are mutually exclusive: choose one of --diversity-rate, --constraints",
        ),
        ({"diverse_beam_groups": 2}, "--diverse-beam-groups must divide --beam; they are 2 and 5"),
        ({"diverse_beam_groups": 10}, "--diverse-beam-groups must divide --beam; they are 10 and 5"),
        ({"min_len": 20, "max_len_b": 10}, "--min-len must be at most --max-len-b, which is 10; it is 20"),
        ({"max_len_b": 0}, "--min-len must be at most --max-len-b, which is 0; it is 1"),
        ({"retain_iter_history": True}, "--retain-iter-history is for non-autoregressive models, which refine; le"),
        (
            {"score_reference": True, "print_step": True},
            "--print-step has nothing to print with --score-reference, which takes no steps: leave it out",
        ),
        (
            {"replace_unk": "@@ "},
            "--replace-unk must name a file with a source word and its translation in each line, or be '' to copy the "
            "source word; it was given none",
        ),
        (
            {"replace_unk": "missing.txt"},
            "--replace-unk must name a file with a source word and its translation in each line, or be '' to copy the "
            "source word; there is no file missing.txt",
        ),
        ({"lm_path": "missing.pt"}, "--lm-path must name the checkpoint of a language model; there is no file mis"),
        (
            {"lm_path": __file__, "data": "nowhere"},
            "--lm-path needs the language model's dictionary in DATA, under the name dict.txt; copy it there",
        ),
        ({"num_workers": -1}, "--num-workers must be at least 0; it is -1. 0 loads data in this process"),
        ({"seed": -1}, "--seed must be from 0 to 4294967295; it is -1"),
        (
            {"post_process": "bpe"},
            "--post-process must be one of sentencepiece, wordpiece, letter, silence, _EOW, subword_nmt, '@@ ', @@, "
            "none; it is bpe",
        ),
        (
            {"model_overrides": "dropout=0"},
            "--model-overrides must be a dictionary as in Python, {'dropout': 0.1}; it is dropout=0",
        ),
        ({"num_shards": 0}, "--num-shards must be at least 1; it is 0. It is how many parts the data is cut into"),
        (
            {"constraints": "ordered", "takes_constraints": False},
            "--constraints can't be used with this --task: fairseq has them for pairs of two languages only",
        ),
        (
            {"match_source_len": True, "continues_prompts": True},
            "--match-source-len leaves a language model no word to write, because its output begins with the source; "
            "leave it out",
        ),
    ],
)  # fmt: skip
def test_what_can_not_work(options, message):
    (found,) = problems(**options)
    assert found.startswith(message)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"beam": 1000, "nbest": -1, "batch_size": 0, "max_tokens": 0},
        {"lenpen": float("inf"), "unkpen": 1e9, "temperature": float("inf"), "min_len": -3},
        {"sampling": True, "nbest": 5, "sampling_topk": 3, "sampling_topp": 2.0},
        {"diverse_beam_groups": 5, "diversity_rate": 0.0},
        {"diverse_beam_groups": -5, "no_repeat_ngram_size": -1, "prefix_size": -3},
        {"min_len": 300, "max_len_a": 2.0},
        {"min_len": 300, "el_max_new_tokens": 20, "continues_prompts": True},
        {"score_reference": True, "beam": 0, "constraints": "ordered", "takes_constraints": False},
        {"constraints": "unordered", "replace_unk": "", "post_process": "sentencepiece"},
        {"match_source_len": True, "prefix_size": 1, "continues_prompts": True},
    ],
)
def test_what_works_in_stock(options):
    assert problems(**options) == []


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    work = tmp_path_factory.mktemp("pairs")
    return write_pairs(work, {"train": 1, "test": 5}), save_checkpoint(work / "model.pt")


def failure(program, *arguments):
    with pytest.raises(Exception) as caught:
        fairseq(program, *arguments)
    return caught.value


def test_all_problems_at_once_and_before_the_model_is_read(pairs):
    error = failure("generate", pairs[0], "--path", "none.pt", "--task", "el_translation", "--beam", "0", "--bf16")
    assert isinstance(error, OptionError)
    assert re.fullmatch(r"2 options can't be used:\n  - --beam must .*\n  - --bf16 does nothing .*", str(error))


def test_rules_of_transformers_are_looked_at_before_the_model_is_read(pairs):
    start = ["generate", pairs[0], "--path", "none.pt", "--task", "el_translation"]
    error = failure(*start, "--el-search", "transformers", "--el-forbidden", "x", "--diversity-rate", "0.5")
    assert isinstance(error, OptionError)
    assert re.fullmatch(
        r"2 options can't be used:\n  - --el-forbidden must .*\n  - --diversity-rate does .*", str(error)
    )


def test_what_fairseq_looks_at_before_the_task(pairs):
    """Those errors are fairseq's own; the report on the command line says this instead."""
    start = ["generate", pairs[0], "--path", pairs[1], "--task", "el_translation"]
    said = explain_by_options(failure(*start, "--sampling", "--beam", "4", "--lenpen", "nan"))
    assert said.startswith(
        "2 options can't be used:\n  - --lenpen must be a number; it is nan\n  - --nbest must be equal"
    )
    said = explain_by_options(failure(*start, "--replace-unk", "none.txt"))
    assert "there is no file none.txt" in said
    assert "--replace-unk requires a raw text dataset (--dataset-impl=raw); given: --replace-unk none.txt, --da" in said
    said = explain_by_options(failure(*start, "--gen-subset", "train,test"))
    assert said == f"--gen-subset must name one split of the data; it is train,test, and {pairs[0]} has test, train"
    said = explain_by_options(failure("interactive", *start[1:], "--batch-size", "4", "--buffer-size", "2"))
    assert said == "--batch-size cannot be larger than --buffer-size; given: --batch-size 4, --buffer-size 2"
    said = explain_by_options(failure(*start[:2], "--path", "none.pt", *start[4:]))
    assert said == "Model file not found: none.pt. --path must name a checkpoint, or several with a colon in between"
    said = explain_by_options(failure(*start[:4], "--task", "el_language_modeling"))
    assert said.startswith(f"There is no {pairs[0] / 'dict.txt'}, which data of language models have.")
    assert explain_by_options(KeyError("of somebody else")) is None


def test_text_that_can_not_be_encoded(pairs):
    start = ["generate", pairs[0], "--path", pairs[1], "--task", "el_translation", "--beam", "1"]
    said = explain_by_options(failure(*start, "--bpe", "sentencepiece"))
    assert said == "--sentencepiece-model must be given with this --bpe or --tokenizer"
    said = explain_by_options(
        failure(*start, "--bpe", "gpt2", "--gpt2-encoder-json", "none", "--gpt2-vocab-bpe", "none")
    )
    assert said == "The file none was not found. Options of --bpe and --tokenizer must name files that are there"
    said = explain_by_options(failure(*start, "--bpe", "characters"))
    assert said is None or said.startswith("--bpe must be one that fairseq's command line can set up, bert, ")


def test_constraints_are_for_interactive_input(pairs):
    options = [pairs[0], "--path", pairs[1], "--constraints", "--beam", "4", "--max-len-b", "8", "--task"]
    error = failure("generate", *options, "el_translation")
    assert isinstance(error, OptionError) and str(error).startswith("--constraints needs constraints in the data, and ")
    typed = "w1 w2 w3\tw7\nw4\n"
    mine, stock = (fairseq("interactive", *options, task, stdin=typed) for task in ("el_translation", "translation"))
    assert [words for _, words in hypotheses(mine)[0]] == [words for _, words in hypotheses(stock)[0]]
    assert "w7" in hypotheses(mine)[0][0][1]


def generation(**options):
    return argparse.Namespace(beam=2, max_len_b=5, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"print_alignment": "soft"}, "--print-alignment must be hard in fairseq-interactive"),
        ({"score_reference": True}, "--score-reference needs references, and fairseq-interactive has none"),
    ],
)
def test_typed_sentences_without_targets(options, message):
    task = TinyELTask(WORDS)
    task.reads_a_checkpoint = True
    with pytest.raises(OptionError, match=message):
        task.build_generator([build_model("transformer", WORDS, seed=1)], generation(**options))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prefix_size": 2}, "--prefix-size needs targets, and the data have none"),
        ({"score_reference": True}, "--score-reference needs targets, and the data have none"),
    ],
)
def test_data_without_targets(options, message):
    task = TinyELTask(WORDS)
    task.datasets = {"test": LanguagePairDataset([torch.tensor([5, 2])], [2], WORDS)}
    with pytest.raises(OptionError, match=message):
        task.build_generator([build_model("transformer", WORDS, seed=1)], generation(**options))


def test_dictionaries(pairs):
    model = build_model("transformer", WORDS, seed=1)
    with pytest.raises(OptionError, match="--sampling-topk must be at most the number of target words, 20; it is 21"):
        TinyELTask(WORDS).build_generator([model], generation(sampling=True, sampling_topk=21))
    lm = {"lm_model": build_language_model(dictionary(30), seed=1), "lm_weight": 0.3}
    with pytest.raises(OptionError, match="--lm-path must have the target dictionary's 20 words; it has 34"):
        TinyELTask(WORDS).build_generator([model], generation(), extra_gen_cls_kwargs=lm)
    lm = {"lm_model": build_language_model(WORDS, seed=1), "lm_weight": 0.3}
    TinyELTask(WORDS).build_generator([model], generation(), extra_gen_cls_kwargs=lm)


def test_options_of_scripts(pairs):
    """A generator that is built without a command line."""
    with pytest.raises(OptionError, match="--beam must be at least 1; it is 0"):
        TinyELTask(WORDS).build_generator([build_model("transformer", WORDS, seed=1)], argparse.Namespace(beam=0))
    assert TinyTask(WORDS).build_generator([build_model("transformer", WORDS, seed=1)], argparse.Namespace(beam=0))


def test_several_directories(pairs, tmp_path, caplog):
    other = write_text(tmp_path, {"train": 1, "test": 1})
    fairseq("generate", f"{pairs[0]}:{other}", "--path", pairs[1], "--task", "el_translation", "--beam", "1")
    assert f"DATA are 2 directories, and only the first is read: {pairs[0]}" in caplog.text


def test_sentences_that_do_not_fit(pairs):
    start = ["generate", pairs[0], "--path", pairs[1], "--task", "el_translation"]
    error = failure(*start, "--max-tokens", "3")
    assert re.match(r"--max-tokens must hold the longest sentence, \d+; it is 3", str(error))
    assert "is invalid" in str(failure(*start, "--max-source-positions", "2"))
