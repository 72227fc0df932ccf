"""How a model is decoded: Hugging Face's defaults as options of ``fairseq-generate``, and back."""

from __future__ import annotations

import shlex
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Tuple

from fairseq_el.conversion.limits import is_number, shown
from fairseq_el.errors import FairseqElError

Settings = Dict[str, Any]


class _Carried(NamedTuple):
    """A setting that both programs have. ``shift`` is Hugging Face's value less fairseq's."""

    hf: str
    option: str
    kind: Callable[[Any], Any]
    shift: int = 0


# Hugging Face's lengths count the decoder's first symbol and the eos, fairseq's neither.
_CARRIED = (
    _Carried("num_beams", "--beam", int),
    _Carried("length_penalty", "--lenpen", float),
    _Carried("min_length", "--min-len", int, 1),
    _Carried("max_length", "--max-len-b", int, 2),
    _Carried("no_repeat_ngram_size", "--no-repeat-ngram-size", int),
)
_DEFAULTS = {"num_beams": 1, "length_penalty": 1.0, "min_length": 0, "no_repeat_ngram_size": 0}
# Settings that change what is written and have no option in fairseq, with the value that changes nothing.
_NEUTRAL: Tuple[Tuple[str, Any], ...] = (
    ("do_sample", False),
    ("num_beam_groups", 1),
    ("diversity_penalty", 0.0),
    ("repetition_penalty", 1.0),
    ("encoder_no_repeat_ngram_size", 0),
    ("encoder_repetition_penalty", 1.0),
    ("exponential_decay_length_penalty", None),
    ("begin_suppress_tokens", None),
    ("suppress_tokens", None),
    ("forced_decoder_ids", None),
    ("sequence_bias", None),
    ("force_words_ids", None),
    ("constraints", None),
    ("guidance_scale", None),
    ("penalty_alpha", None),
    ("remove_invalid_values", False),
)
_READ = (
    *(carried.hf for carried in _CARRIED), *(name for name, _ in _NEUTRAL),
    "early_stopping", "bad_words_ids", "forced_bos_token_id", "forced_eos_token_id", "max_new_tokens", "min_new_tokens",
)  # fmt: skip

_NUMBERS = (*(carried.hf for carried in _CARRIED), "max_new_tokens", "min_new_tokens")


def generation_settings(config: Settings, generation: Settings) -> Settings:
    """Those of ``generation_config.json``, or where it is missing of ``config.json``, as older models have them.

    Raises:
        FairseqElError: they are of other types than transformers writes.
    """
    source = generation or config
    found = {name: source[name] for name in _READ if source.get(name) is not None}
    wrong = [name for name in _NUMBERS if not is_number(found.get(name, 0))]
    if wrong:
        listed = "; ".join(f"{name} is {shown(found[name])}" for name in wrong)
        raise FairseqElError(f"generation settings must be numbers; {listed}. Copy the model's generation_config.json")
    if not isinstance(found.get("bad_words_ids", []), list):
        raise FairseqElError(f"bad_words_ids must be a list of words' ids; it is {shown(found['bad_words_ids'])}")
    return found


def fairseq_options(found: Settings, pad: Optional[int], decoder_only: bool) -> Tuple[List[str], List[str]]:
    """Options of ``fairseq-generate``, one a line, and notes on all that they can't say."""
    settings = {**_DEFAULTS, **found}
    if "max_new_tokens" in found:
        settings["max_length"] = found["max_new_tokens"] + 1
    if "min_new_tokens" in found:
        settings["min_length"] = found["min_new_tokens"] + 1
    lines = []
    for carried in _CARRIED:
        if carried.hf in settings:
            value = carried.kind(settings[carried.hf])
            lines.append(f"{carried.option} {max(value - carried.shift, 0) if carried.shift else value}")
        if carried.option == "--max-len-b" and carried.hf in settings:
            lines.insert(-1, "--max-len-a 0")
    return lines, list(_notes(settings, found, pad, decoder_only))


def _notes(settings: Settings, found: Settings, pad: Optional[int], decoder_only: bool) -> List[str]:
    notes = []
    beams = settings["num_beams"]
    if "max_length" not in settings:
        notes.append(
            "max_length is not set: transformers stops after 20 tokens, fairseq-generate after --max-len-b 200"
        )
    if beams > 1 and settings.get("early_stopping") is not True:
        notes.append(
            f"early_stopping is {settings.get('early_stopping', False)!r}: fairseq always stops as with true, as soon "
            "as it has as many hypotheses as beams"
        )
    if settings.get("forced_bos_token_id") is not None:
        notes.append(
            f"forced_bos_token_id is {settings['forced_bos_token_id']}: fairseq forces first words by prefix tokens "
            "(--prefix-size, or the hub interface), and counts their log-probability, which transformers takes to be 0"
        )
    if settings.get("forced_eos_token_id") is not None:
        notes.append(
            "forced_eos_token_id: fairseq, too, ends the longest hypotheses with an eos, but counts its "
            "log-probability, which transformers takes to be 0"
        )
    bad = [words for words in settings.get("bad_words_ids") or [] if words != [pad]]
    if bad:
        notes.append(f"bad_words_ids forbids {bad}: fairseq-generate has no such option (padding is never written)")
    if decoder_only and beams > 1 and settings["length_penalty"] != 0:
        notes.append(
            f"length_penalty is {settings['length_penalty']}: fairseq's scores count the prompt and its length, so "
            "beams of different lengths may be ranked differently; with 0 both programs agree"
        )
    notes.extend(
        f"{name} is {found[name]!r}: it is not carried over" for name, neutral in _NEUTRAL
        if name in found and found[name] != neutral
    )  # fmt: skip
    return notes


def hf_settings(lines: List[str]) -> Settings:
    """Hugging Face's settings for options in a file of them; the reverse of :func:`fairseq_options`.

    Raises:
        FairseqElError: what must be a number is none.
    """
    found: Settings = {"early_stopping": True}
    try:
        words = shlex.split(" ".join(lines))
        given = {word: value for word, value in zip(words, words[1:]) if word.startswith("--")}
        for carried in _CARRIED:
            if carried.option in given:
                found[carried.hf] = carried.kind(given[carried.option]) + carried.shift
        if float(given.get("--max-len-a", 0)) != 0:
            found.pop("max_length", None)
    except ValueError as error:
        raise FairseqElError(
            f"generate.args must hold options of fairseq-generate, one on each line; {error}"
        ) from error
    meaningless = {("no_repeat_ngram_size", 0), *([] if found.get("num_beams", 1) > 1 else [("early_stopping", True)])}
    return {name: value for name, value in found.items() if (name, value) not in meaningless}
