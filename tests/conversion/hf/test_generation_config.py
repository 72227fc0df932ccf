"""Hugging Face's generation settings as options of fairseq-generate, and what is said of those that have none."""

from __future__ import annotations

from typing import Any

import pytest

from fairseq_el.conversion.hf.families import BART, GPT2, Family
from fairseq_el.conversion.hf.generation_config import fairseq_options, generation_settings, hf_settings
from fairseq_el.conversion.hf.vocabulary import EOS, Vocabulary

CNN = {  # facebook/bart-large-cnn
    "bos_token_id": 0,
    "decoder_start_token_id": 2,
    "early_stopping": True,
    "eos_token_id": 2,
    "forced_bos_token_id": 0,
    "forced_eos_token_id": 2,
    "length_penalty": 2.0,
    "max_length": 142,
    "min_length": 56,
    "no_repeat_ngram_size": 3,
    "num_beams": 4,
    "pad_token_id": 1,
}


def converted(settings: dict[str, Any], family: Family = BART, size: int = 1024) -> tuple[list[str], list[str]]:
    """Of a model whose ids 5, 4 are fairseq's indices 4, 5."""
    names = ["<s>", "<pad>", "</s>", "<unk>", *(f"w{i}" for i in range(4, 12))]
    words = Vocabulary(names, [0, 1, 2, 3, 5, 4, *range(6, 12)], EOS)
    return fairseq_options(generation_settings({}, settings), family, words, size)


def test_the_recipe_of_cnn_dailymail():
    """fairseq's published settings: lengths 55 to 140."""
    lines, notes = converted(CNN)
    assert lines == [
        *("--el-search transformers", "--el-early-stopping true", "--beam 4", "--lenpen 2.0", "--min-len 55"),
        *("--max-len-a 0", "--max-len-b 140", "--no-repeat-ngram-size 3"),
        *("--el-forced-first 0", "--el-forced-last 2"),
    ]
    assert notes == []


def test_there_and_back():
    lines, _ = converted(CNN)
    found = hf_settings(["--task translation", "--user-dir fairseq_el", *lines])
    assert found == {name: CNN[name] for name in found}
    special = {"bos_token_id", "pad_token_id", "eos_token_id", "decoder_start_token_id"}
    assert set(CNN) - set(found) == special


def test_fairseqs_own_defaults_where_nothing_is_said():
    """fairseq ends the longest hypotheses with an eos, and writes no padding."""
    mine = {"num_beams": 5, "length_penalty": 1.0, "min_length": 2, "max_length": 202, "early_stopping": True}
    assert hf_settings([]) == mine
    assert hf_settings([], eos=2, pad=1) == {**mine, "forced_eos_token_id": 2, "bad_words_ids": [[1]]}


def test_what_means_nothing_without_beams():
    lines = ["--beam 1", "--no-repeat-ngram-size 0", "--max-len-b 8", "--min-len 0"]
    assert hf_settings(lines) == {"num_beams": 1, "length_penalty": 1.0, "max_length": 10}


def test_defaults_that_are_not_written():
    """transformers writes 20 tokens then, and fairseq would write 200."""
    lines, notes = converted({"pad_token_id": 1})
    assert lines == [
        *("--el-search transformers", "--beam 1", "--lenpen 1.0", "--min-len 0", "--max-len-a 0", "--max-len-b 19"),
        "--no-repeat-ngram-size 0",
    ]
    assert notes == []
    lines, _ = converted({"pad_token_id": 1}, GPT2)
    assert "--el-max-new-tokens 20" in lines


def test_new_tokens_go_before_lengths():
    settings = {"max_new_tokens": 10, "min_new_tokens": 3, "max_length": 99, "min_length": 50}
    lines, _ = converted(settings)
    assert "--max-len-b 9" in lines and "--min-len 3" in lines
    lines, _ = converted(settings, GPT2)
    assert {"--el-max-new-tokens 10", "--el-min-new-tokens 3", "--min-len 0", "--max-len-b 1022"} <= set(lines)


def test_older_models_have_them_in_their_configuration():
    config = {"num_beams": 6, "d_model": 4, "max_length": 62, "stop_strings": ["x"]}
    assert generation_settings(config, {}) == {"num_beams": 6, "max_length": 62, "stop_strings": ["x"]}
    assert generation_settings(config, {"num_beams": 2}) == {"num_beams": 2}


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"num_beams": 4}, "--el-early-stopping false"),
        ({"num_beams": 4, "early_stopping": "never"}, "--el-early-stopping never"),
        ({"bad_words_ids": [[1], [2], [7, 5], [4]]}, "--el-forbidden 7+4,5"),
        ({"bad_words_ids": [[7, 99]], "suppress_tokens": [5, 99]}, "--el-forbidden 4"),
        ({"begin_suppress_tokens": [4, 2]}, "--el-forbidden-first 5,2"),
        ({"forced_eos_token_id": [4]}, "--el-forced-last 5"),
        ({"num_return_sequences": 3, "num_beams": 3}, "--nbest 3"),
    ],
)
def test_what_has_an_option_of_its_own(settings, line):
    """By fairseq's indices. A word that the model has not is never written; an eos is no bad word in transformers."""
    lines, notes = converted({"max_length": 9, **settings})
    assert line in lines and notes == []


NOT_CARRIED = {
    **{"do_sample": True, "temperature": 0.7, "top_k": 10, "top_p": 0.9, "min_p": 0.1, "typical_p": 0.2, "top_h": 0.1},
    **{"epsilon_cutoff": 0.1, "eta_cutoff": 0.1, "repetition_penalty": 1.2, "encoder_repetition_penalty": 1.1},
    **{"encoder_no_repeat_ngram_size": 3, "num_beam_groups": 2, "diversity_penalty": 0.5, "guidance_scale": 2.0},
    **{"exponential_decay_length_penalty": [1, 2.0], "sequence_bias": [[[3], 1.0]], "force_words_ids": [[3]]},
    **{"constraints": ["x"], "stop_strings": ["."], "max_time": 3.0, "penalty_alpha": 0.6, "dola_layers": "low"},
    **{"renormalize_logits": True, "remove_invalid_values": True, "watermarking_config": {"bias": 2.0}},
    **{"token_healing": True, "prompt_lookup_num_tokens": 3, "num_assistant_tokens": 5, "is_assistant": True},
    **{"forced_decoder_ids": [[1, 4]], "something_new": "x", "forced_bos_token_id": 99},
}


@pytest.mark.parametrize("name", NOT_CARRIED)
def test_what_is_not_carried_over_is_named(name):
    _, notes = converted({"max_length": 9, name: NOT_CARRIED[name]})
    assert len(notes) == 1 and notes[0].startswith(f"{name} is {NOT_CARRIED[name]!r}: it is not carried over")


def test_of_several_ends_one_is_used_and_it_is_said():
    _, notes = converted({"max_length": 9, "eos_token_id": [2, 3]})
    assert notes == ["eos_token_id is [2, 3]: outputs end at one of them only, the eos_token_id of config.json"]


def test_what_changes_nothing_is_not_said():
    """All that transformers writes by default, in version 4 and 5, and what is about speed and the form of outputs."""
    settings = {
        "max_length": 9,
        "bad_words_ids": [[1]],
        "do_sample": False,
        "repetition_penalty": 1.0,
        "use_cache": True,
    }
    settings.update({"top_k": 50, "temperature": 1.0, "top_p": 1.0, "num_beam_groups": 1, "diversity_penalty": 0.0})
    settings.update({"transformers_version": "4.40.0", "_from_model_config": True, "use_cache": True, "max_time": None})
    settings.update({"eos_token_id": 2, "pad_token_id": 1, "bos_token_id": 0, "decoder_start_token_id": 2})
    assert converted(settings)[1] == []


def test_the_defaults_of_transformers_are_known():
    transformers = pytest.importorskip("transformers")
    defaults = getattr(transformers.GenerationConfig, "_get_default_generation_params", dict)()
    assert converted({name: value for name, value in defaults.items() if value is not None})[1] == []
