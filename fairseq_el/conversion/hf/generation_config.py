"""Converts generation defaults: ``generation_config.json`` to options of ``fairseq-generate``, and back."""

from __future__ import annotations

import shlex
from typing import Any, Dict, Iterator, List, Optional, Tuple

from fairseq_el.conversion.hf.families import MBART25, Family
from fairseq_el.conversion.hf.hf_directory import GENERATION
from fairseq_el.conversion.hf.tokenizer_files import OPTIONS
from fairseq_el.conversion.hf.vocabulary import BOS, EOS, PAD, Vocabulary
from fairseq_el.conversion.limits import is_number, shown
from fairseq_el.errors import FairseqElError

Settings = Dict[str, Any]

# transformers' own default of every setting that changes outputs and has no option here.
_NOT_CARRIED: Settings = {
    **dict.fromkeys(
        ("do_sample", "remove_invalid_values", "renormalize_logits", "is_assistant", "token_healing"), False
    ),
    **dict.fromkeys(("temperature", "top_p", "typical_p", "repetition_penalty", "encoder_repetition_penalty"), 1.0),
    **dict.fromkeys(("diversity_penalty", "epsilon_cutoff", "eta_cutoff", "encoder_no_repeat_ngram_size"), 0),
    **{"top_k": 50, "num_beam_groups": 1, "guidance_scale": 1, "num_assistant_tokens": 20},
    **{"num_assistant_tokens_schedule": "constant", "assistant_confidence_threshold": 0.4},
    **{"assistant_lookbehind": 10, "target_lookbehind": 10},
}
_CARRIED = (
    *("num_beams", "length_penalty", "min_length", "max_length", "min_new_tokens", "max_new_tokens"),
    *("no_repeat_ngram_size", "early_stopping", "bad_words_ids", "suppress_tokens", "begin_suppress_tokens"),
    *("forced_bos_token_id", "forced_eos_token_id", "num_return_sequences"),
)
_SPECIAL = ("bos_token_id", "pad_token_id", "eos_token_id", "decoder_start_token_id")  # read with config.json
_WITHOUT_EFFECT = (
    *("use_cache", "cache_implementation", "cache_config", "max_cache_len", "output_attentions", "output_scores"),
    *("output_hidden_states", "output_logits", "return_dict_in_generate", "return_legacy_cache", "compile_config"),
    *("disable_compile", "prefill_chunk_size", "transformers_version", "_from_model_config", "_commit_hash"),
    *("low_memory", "continuous_batching_config"),
)
_OLD = (  # settings that older models have in config.json, of those that are not carried over
    *_NOT_CARRIED,
    *("exponential_decay_length_penalty", "forced_decoder_ids", "sequence_bias", "force_words_ids", "constraints"),
    *("penalty_alpha", "stop_strings", "max_time"),
)
_NUMBERS = (
    *("num_beams", "length_penalty", "min_length", "max_length", "min_new_tokens", "max_new_tokens"),
    *("no_repeat_ngram_size", "num_return_sequences"),
)
_NEW_TOKENS = 20  # of transformers, where neither max_length nor max_new_tokens is set
# fairseq-generate's own.
_FAIRSEQ = {"--beam": 5, "--lenpen": 1, "--min-len": 1, "--max-len-a": 0, "--max-len-b": 200}


def generation_settings(config: Settings, generation: Settings) -> Settings:
    """Reads ``generation_config.json``, or where it is missing ``config.json``, as older models have it.

    Raises:
        FairseqElError: a setting has another type than transformers writes.
    """
    if generation:
        found = {name: value for name, value in generation.items() if value is not None}
    else:
        found = {name: config[name] for name in (*_CARRIED, *_OLD) if config.get(name) is not None}
    problems = [
        f"{name} is {shown(found[name])}" for name in _NUMBERS
        if not is_number(found.get(name, 0)) or (name != "length_penalty" and found.get(name, 0) < 0)
    ]  # fmt: skip
    if problems:
        raise FairseqElError(
            f"generation settings must be numbers; {'; '.join(problems)}. Copy the model's generation_config.json"
        )
    bad = found.get("bad_words_ids", [])
    if not isinstance(bad, list) or not all(isinstance(words, list) and words and _are_ids(words) for words in bad):
        raise FairseqElError(f"bad_words_ids must be a list of words' ids; it is {shown(bad)}")
    for name in ("suppress_tokens", "begin_suppress_tokens"):
        if not isinstance(found.get(name, []), list) or not _are_ids(found.get(name, [])):
            raise FairseqElError(f"{name} must be a list of ids; it is {shown(found[name])}")
    return found


def _are_ids(values: List[Any]) -> bool:
    return all(type(value) is int for value in values)


def fairseq_options(found: Settings, family: Family, vocabulary: Vocabulary, size: int) -> Tuple[List[str], List[str]]:
    """Makes options of ``fairseq-generate``, one a line, and notes on all that they can't express.

    Args:
        size: positions of the model.
    """
    words = _Words(vocabulary)
    beams = int(found.get("num_beams", 1))
    lines = ["--el-search transformers", f"--beam {beams}", f"--lenpen {float(found.get('length_penalty', 1.0))}"]
    if beams > 1:
        lines.insert(1, f"--el-early-stopping {_early_stopping(found)}")
    lines.extend(_lengths(found, family, size))
    lines.append(f"--no-repeat-ngram-size {int(found.get('no_repeat_ngram_size', 0))}")
    if not family.languages or family is MBART25:  # of the others it is the language, which the task forces
        lines.extend(words.forced(found, "forced_bos_token_id", "--el-forced-first"))
    lines.extend(words.forced(found, "forced_eos_token_id", "--el-forced-last"))
    bad = [words.indices(sequence) for sequence in found.get("bad_words_ids", [])]
    bad = [sequence for sequence in bad if sequence and sequence not in ([EOS], [PAD])]
    bad += [[index] for index in words.indices(found.get("suppress_tokens", []), leave_out=True)]
    if bad:
        lines.append("--el-forbidden " + ",".join("+".join(map(str, sequence)) for sequence in bad))
    first = words.indices(found.get("begin_suppress_tokens", []), leave_out=True)
    if first:
        lines.append("--el-forbidden-first " + ",".join(map(str, first)))
    if found.get("num_return_sequences", 1) > 1:
        lines.append(f"--nbest {int(found['num_return_sequences'])}")
    return lines, [*words.notes, *_notes(found, family)]


def _early_stopping(found: Settings) -> str:
    value = found.get("early_stopping", False)
    return "never" if value == "never" else str(value is True).lower()


def _lengths(found: Settings, family: Family, size: int) -> Iterator[str]:
    """Makes the options of lengths.

    Hugging Face's lengths count the first symbol, or a prompt, and the eos. fairseq's count a prompt alone.
    """
    new = found.get("max_new_tokens", None if "max_length" in found else _NEW_TOKENS)
    longest = size - 1 if new is None else min(int(new), size) - 1
    if new is None:
        longest = int(found["max_length"]) - 2
    if family.decoder_only:
        least = found.get("min_new_tokens")
        yield f"--min-len {0 if least is not None else max(min(int(found.get('min_length', 0)) - 1, size - 2), 0)}"
        if least:
            yield f"--el-min-new-tokens {int(least)}"
        if new is not None:
            yield f"--el-max-new-tokens {int(new)}"
            longest = size - 2
    else:
        least = found.get("min_new_tokens", found.get("min_length", 0) - 1)
        yield f"--min-len {max(min(int(least), longest), 0)}"
    yield "--max-len-a 0"
    yield f"--max-len-b {max(longest, 0)}"


class _Words:
    """Finds the indices in fairseq's dictionary of Hugging Face's ids, with a note on each that has none."""

    def __init__(self, vocabulary: Vocabulary):
        self._index_of = vocabulary.index_of
        self.notes: List[str] = []

    def indices(self, ids: List[int], leave_out: bool = False) -> List[int]:
        """Returns the indices of ids.

        Args:
            leave_out: leave out ids without an index; else the list is empty where there is one.
        """
        found = [self._index_of[row] for row in ids if row in self._index_of]
        return found if leave_out or len(found) == len(ids) else []

    def forced(self, found: Settings, name: str, option: str) -> Iterator[str]:
        value = found.get(name)
        value = value[0] if isinstance(value, list) and len(value) == 1 else value
        if type(value) is int and value in self._index_of:
            yield f"{option} {self._index_of[value]}"
        elif value is not None:
            self.notes.append(f"{name} is {value!r}: it is not carried over, because the model has no such token")


def _notes(found: Settings, family: Family) -> List[str]:
    notes = []
    if found.get("do_sample") is True:
        notes.append(
            "do_sample is True: it is not carried over; to draw words give --sampling and options of it in place of "
            "--el-search transformers, --el-early-stopping, --el-forced-... and --el-forbidden..."
        )
    ends = found.get("eos_token_id")
    if isinstance(ends, list) and len(ends) > 1:
        notes.append(f"eos_token_id is {ends!r}: outputs end at one of them only, the eos_token_id of config.json")
    known = (*_CARRIED, *_SPECIAL, *_WITHOUT_EFFECT, "do_sample")
    notes.extend(
        f"{name} is {value!r}: it is not carried over"
        for name, value in found.items()
        if name not in known and not (name in _NOT_CARRIED and value == _NOT_CARRIED[name])
    )
    if family.languages and family is not MBART25 and found.get("forced_bos_token_id") is None:
        notes.append(
            "forced_bos_token_id is not set: transformers forces no language then; fairseq that of --target-lang"
        )
    return notes


def hf_generation(
    options: List[str], family: Family, positions: int, vocabulary: Vocabulary, target: Optional[str], begin: bool
) -> Tuple[Settings, List[str]]:
    """Makes the settings with which ``generate()`` writes what fairseq writes, and notes on what differs.

    Args:
        options: lines of ``generate.args``; empty for fairseq-generate's own defaults.
        positions: number of positions that the model has.
        target: the target language, by the checkpoint's settings.
        begin: outputs begin with ``<s>``.

    Raises:
        FairseqElError: a value of an option is not a number.
    """
    ids = vocabulary.hf_special_ids(family)
    found = hf_settings(options, ids["eos_token_id"], ids["pad_token_id"], positions)
    language = "" if family.languages is None else family.languages.symbol_of(str(target))
    if family is not MBART25 and language in vocabulary.symbols:
        found["forced_bos_token_id"] = vocabulary.ids[vocabulary.symbols.index(language)]
    elif begin and not options:  # as the hub forces it
        found["forced_bos_token_id"] = vocabulary.ids[BOS]
    if family is MBART25 and language in vocabulary.symbols:
        ids["decoder_start_token_id"] = vocabulary.ids[vocabulary.symbols.index(language)]
    notes = []
    if "--el-search transformers" not in options:
        notes.append(
            f"{GENERATION} has fairseq-generate's {f'options of {OPTIONS}' if options else 'own defaults'}; outputs "
            "that are as long as they may be can be ranked otherwise, because fairseq counts their last eos, or forced "
            "first words"
        )
        if family.decoder_only and found["num_beams"] > 1:
            notes.append("fairseq's scores count the prompt and its length: with length_penalty 0 both programs agree")
    return {**ids, **found}, notes


def _numbers_given(given: Dict[str, Any], size: Optional[int]) -> Settings:
    """Reads the settings that are numbers from options.

    Raises:
        ValueError: one is not a number, or no setting can have it.
    """
    found: Settings = {
        "num_beams": int(given["--beam"]),
        "length_penalty": float(given["--lenpen"]),
        "min_length": int(given["--min-len"]) + 1,
        "max_length": min(int(given["--max-len-b"]), size - 1 if size else 10**9) + 2,
        "no_repeat_ngram_size": int(given["--no-repeat-ngram-size"]),
        "num_return_sequences": int(given["--nbest"]),
    }
    if float(given["--max-len-a"]) != 0:
        found.pop("max_length")
    if "--el-max-new-tokens" in given:
        found.pop("max_length", None)
        found["max_new_tokens"] = int(given["--el-max-new-tokens"])
    if "--el-min-new-tokens" in given:
        found.pop("min_length")
        found["min_new_tokens"] = int(given["--el-min-new-tokens"])
    wrong = [name for name in found if not is_number(found[name]) or (name != "length_penalty" and found[name] < 0)]
    if wrong or found["num_beams"] < 1:
        name = next(iter(wrong), "num_beams")
        raise ValueError(f"{name} would be {shown(found[name])}")
    return found


def _ids_given(given: Dict[str, Any]) -> Settings:
    """Reads the settings that name tokens from options, for a model whose ids are fairseq's.

    Raises:
        ValueError: an id is not a whole number.
    """
    found: Settings = {}
    for option, name in (("--el-forced-first", "forced_bos_token_id"), ("--el-forced-last", "forced_eos_token_id")):
        if int(given.get(option, -1)) >= 0:
            found[name] = int(given[option])
    for option, name in (("--el-forbidden", "bad_words_ids"), ("--el-forbidden-first", "begin_suppress_tokens")):
        sequences = [list(map(int, part.split("+"))) for part in str(given.get(option, "")).split(",") if part]
        if sequences:
            found[name] = sequences if name == "bad_words_ids" else [words[0] for words in sequences]
    return found


def hf_settings(
    lines: List[str], eos: Optional[int] = None, pad: Optional[int] = None, size: Optional[int] = None
) -> Settings:
    """Makes Hugging Face's settings of options in a file, or of fairseq-generate's own defaults.

    Args:
        eos: id of the eos, which ends the longest hypotheses of fairseq.
        pad: id of the padding, which fairseq never writes.
        size: positions of the model, which fairseq never exceeds.

    Raises:
        FairseqElError: a value is not a number.
    """
    given: Dict[str, Any] = {**_FAIRSEQ, "--no-repeat-ngram-size": 0, "--nbest": 1}
    try:
        words = shlex.split(" ".join(lines))
        given.update((word, value) for word, value in zip(words, words[1:]) if word.startswith("--"))
        found, forced_and_forbidden = _numbers_given(given, size), _ids_given(given)
    except (ValueError, OverflowError) as error:
        raise FairseqElError(
            f"generate.args must hold options of fairseq-generate, one on each line; {error}"
        ) from error
    as_transformers = given.get("--el-search") == "transformers"
    if found["num_beams"] > 1:
        stops = given.get("--el-early-stopping", "false") if as_transformers else "true"
        found["early_stopping"] = {"true": True, "false": False}.get(str(stops), "never")
    if not as_transformers and eos is not None:
        found["forced_eos_token_id"] = eos
    if pad is not None:
        found["bad_words_ids"] = [[pad]]
    found.update(forced_and_forbidden)
    meaningless = {("no_repeat_ngram_size", 0), ("num_return_sequences", 1), ("min_length", 1)}
    return {name: value for name, value in found.items() if isinstance(value, list) or (name, value) not in meaningless}
