"""Hugging Face's generation settings as options of fairseq-generate, and what is said of those that have none."""

from __future__ import annotations

import pytest

from fairseq_el.conversion.hf.generation import fairseq_options, generation_settings, hf_settings

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


def test_the_recipe_of_cnn_dailymail():
    """fairseq's published settings: lengths 55 to 140."""
    lines, notes = fairseq_options(generation_settings({}, CNN), 1, decoder_only=False)
    assert lines == [
        *("--beam 4", "--lenpen 2.0", "--min-len 55", "--max-len-a 0", "--max-len-b 140", "--no-repeat-ngram-size 3")
    ]
    forced_first, forced_last = notes
    assert "forced_bos_token_id is 0: fairseq forces first words by prefix tokens" in forced_first
    assert "forced_eos_token_id: fairseq, too, ends the longest hypotheses with an eos" in forced_last


def test_there_and_back():
    lines, _ = fairseq_options(generation_settings({}, CNN), 1, decoder_only=False)
    found = hf_settings(["--task translation", "--user-dir fairseq_el", *lines])
    assert found == {name: CNN[name] for name in found}
    assert fairseq_options(found, 1, decoder_only=False)[0] == lines


def test_what_means_nothing_without_beams():
    assert hf_settings([]) == {}
    assert hf_settings(["--beam 1", "--no-repeat-ngram-size 0", "--max-len-b 8"]) == {"num_beams": 1, "max_length": 10}


def test_defaults_that_are_not_written():
    lines, notes = fairseq_options({}, 1, decoder_only=False)
    assert lines == ["--beam 1", "--lenpen 1.0", "--min-len 0", "--no-repeat-ngram-size 0"]
    assert notes == [
        "max_length is not set: transformers stops after 20 tokens, fairseq-generate after --max-len-b 200"
    ]


def test_new_tokens_go_before_lengths():
    lines, _ = fairseq_options({"max_new_tokens": 10, "min_new_tokens": 3, "max_length": 99}, 1, decoder_only=False)
    assert "--max-len-b 9" in lines and "--min-len 3" in lines


def test_older_models_have_them_in_their_configuration():
    config = {"num_beams": 6, "d_model": 4, "max_length": 62}
    assert generation_settings(config, {}) == {"num_beams": 6, "max_length": 62}
    assert generation_settings(config, {"num_beams": 2}) == {"num_beams": 2}


@pytest.mark.parametrize(
    ("settings", "note"),
    [
        ({"num_beams": 4}, "early_stopping is False: fairseq always stops as with true"),
        ({"num_beams": 4, "early_stopping": "never"}, "early_stopping is 'never'"),
        ({"bad_words_ids": [[1], [7, 8]]}, "bad_words_ids forbids [[7, 8]]: fairseq-generate has no such option"),
        ({"do_sample": True}, "do_sample is True: it is not carried over"),
        ({"repetition_penalty": 1.2}, "repetition_penalty is 1.2: it is not carried over"),
        ({"num_beam_groups": 2}, "num_beam_groups is 2: it is not carried over"),
        ({"suppress_tokens": [3]}, "suppress_tokens is [3]: it is not carried over"),
    ],
)
def test_what_is_not_carried_over(settings, note):
    _, notes = fairseq_options({"max_length": 9, **settings}, 1, decoder_only=False)
    assert len(notes) == 1 and notes[0].startswith(note)


def test_what_changes_nothing_is_not_said():
    settings = {"max_length": 9, "bad_words_ids": [[1]], "do_sample": False, "repetition_penalty": 1.0}
    assert fairseq_options(settings, 1, decoder_only=False)[1] == []


def test_scores_of_language_models_count_the_prompt():
    settings = {"max_length": 9, "num_beams": 2, "early_stopping": True}
    (note,) = fairseq_options(settings, None, decoder_only=True)[1]
    assert note.startswith("length_penalty is 1.0: fairseq's scores count the prompt and its length")
    assert fairseq_options({**settings, "length_penalty": 0.0}, None, decoder_only=True)[1] == []
