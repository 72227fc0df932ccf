"""The command line of a fairseq program, and checks of its options: with some, decoding would fail or do otherwise."""

from __future__ import annotations

import argparse
import ast
import math
from pathlib import Path
from typing import Any, Callable, Iterable, Iterator, List, Optional, Tuple

from fairseq import utils
from omegaconf import DictConfig, OmegaConf

from fairseq_el.tasks.whole_data import Shard

_NUMBERS = ("lenpen", "unkpen", "temperature", "max_len_a", "lm_weight", "sampling_topp", "diversity_rate")
_POST_PROCESS = ("sentencepiece", "wordpiece", "letter", "silence", "_EOW", "subword_nmt", "@@ ", "@@", "none")


class CommandLine:
    """Options of all groups that a user gave a fairseq program."""

    def __init__(self, options: Any = None):
        """
        Args:
            options: all options, in one flat namespace or in fairseq's groups; None if they are unknown.
        """
        self._flat = options if isinstance(options, argparse.Namespace) else None
        self._groups = options if isinstance(options, DictConfig) else None

    @classmethod
    def of_task(cls, cfg: Any) -> CommandLine:
        """Finds the command line by a task's own configuration, which is one group of it.

        The group has the whole as its parent, because interpolations need it. Tasks with ``add_args`` have one flat
        namespace. A task that is made by hand has neither.
        """
        return cls(cfg._get_parent() if isinstance(cfg, DictConfig) else cfg)

    def get(self, group: str, name: str, default: Any = None) -> Any:
        """Returns an option, such as ``get("dataset", "num_shards", 1)``; the default if it is not set."""
        found = None
        if self._flat is not None:
            found = getattr(self._flat, name, None)
        elif self._groups is not None:
            found = OmegaConf.select(self._groups, f"{group}.{name}")
        return default if found is None else found

    def find(self, name: str) -> Any:
        """Returns an option of any group, or None."""
        groups = [""] if self._groups is None else list(self._groups)
        found = (self.get(group, name) for group in groups)
        return next((value for value in found if value is not None), None)

    @property
    def reads_a_checkpoint(self) -> bool:
        """Says whether this is fairseq-generate, -interactive, -eval-lm or -validate: training has no ``--path``."""
        return self.get("common_eval", "path") is not None


def command_problems(
    command: CommandLine, takes_constraints: bool = True, continues_prompts: bool = False
) -> List[str]:
    """Finds what is wrong with the command line of a program that reads a checkpoint.

    Options with which stock fairseq works pass. The problems are those with which it fails, mostly with a traceback
    after the model was loaded.
    """

    def option(name: str, default: Any = None) -> Any:
        return command.get("generation", name, default)

    limits_new_tokens = bool(command.get("task", "el_max_new_tokens", 0))
    problems = [*shard_problems(command), *generation_problems(option, limits_new_tokens)]
    if option("sampling", False) and int(option("nbest", 1)) != int(option("beam", 5)):
        given = f"{option('nbest', 1)} and {option('beam', 5)}"
        problems.append(f"--nbest must be equal to --beam with --sampling; they are {given}. Samples have no order")
    if option("constraints") is not None and not takes_constraints and not option("score_reference", False):
        problems.append(
            "--constraints can't be used with this --task: fairseq has them for pairs of two languages only"
        )
    if continues_prompts and option("match_source_len", False) and int(option("prefix_size", 0)) < 1:
        problems.append(
            "--match-source-len leaves a language model no word to write, because its output begins with the source; "
            "leave it out"
        )
    if continues_prompts and option("print_alignment"):
        problems.append(
            "--print-alignment needs a source beside the output, which language models do not have; leave it out"
        )
    if command.get("common", "bf16", False):
        problems.append("--bf16 does nothing where a checkpoint is read; --el-dtype bf16 decodes in bfloat16")
    problems += _file_problems(command)
    problems += _program_problems(command)
    return problems


def shard_problems(command: CommandLine) -> List[str]:
    """Finds what is wrong with ``--num-shards`` and ``--shard-id``."""
    number, count = _shard_numbers(command)
    if count < 1:
        return [f"--num-shards must be at least 1; it is {count}. It is how many parts the data is cut into"]
    if not 0 <= number < count:
        return [f"--shard-id must be from 0 to {count - 1}, because --num-shards is {count}; it is {number}"]
    return []


def shard_of(command: CommandLine) -> Optional[Shard]:
    """Returns the shard that a program is to decode; None for all sentences."""
    number, count = _shard_numbers(command)
    return Shard(number, count) if count > 1 else None


def _shard_numbers(command: CommandLine) -> Tuple[int, int]:
    return int(command.get("dataset", "shard_id", 0)), int(command.get("dataset", "num_shards", 1))


def generation_problems(option: Callable[..., Any], limits_new_tokens: bool = False) -> List[str]:
    """Finds what is wrong with the options that a generator is built with.

    Args:
        option: reads an option: ``option(name, default)`` returns the default if it is not set.
        limits_new_tokens: whether ``--el-max-new-tokens`` is given. It then takes the place of ``--max-len-b``.
    """
    problems = list(_not_numbers(option))
    if int(option("nbest", 1)) == 0:
        problems.append("--nbest must be at least 1; it is 0, so no hypothesis would be written")
    if option("score_reference", False):
        if option("print_step", False):
            problems.append(
                "--print-step has nothing to print with --score-reference, which takes no steps: leave it out"
            )
        return problems
    beam = int(option("beam", 5))
    if beam < 1:
        problems.append(f"--beam must be at least 1; it is {beam}. It is how many hypotheses are kept in each step")
    if float(option("temperature", 1.0)) <= 0:
        problems.append(f"--temperature must be greater than 0; it is {option('temperature')}. 1 changes nothing")
    problems += _search_problems(option)
    groups = int(option("diverse_beam_groups", -1))
    if groups > 0 and beam % groups != 0:
        problems.append(f"--diverse-beam-groups must divide --beam; they are {groups} and {beam}. Groups have one size")
    shortest, longest = int(option("min_len", 1)), option("max_len_b", 200)
    goes_by_option = option("max_len_a", 0) == 0 and not option("match_source_len", False) and not limits_new_tokens
    if goes_by_option and shortest > longest:
        problems.append(f"--min-len must be at most --max-len-b, which is {longest}; it is {shortest}")
    if option("retain_iter_history", False):
        problems.append("--retain-iter-history is for non-autoregressive models, which refine; leave it out")
    return problems


def data_problems(option: Callable[..., Any], datasets: Iterable[Any]) -> List[str]:
    """Finds generation options that need what the data do not have.

    Args:
        datasets: the splits that were loaded; fairseq-interactive loads none.
    """
    problems = []
    for dataset in datasets:
        constrained = option("constraints") is not None and not option("score_reference", False)
        if constrained and getattr(dataset, "constraints", None) is None:
            problems.append(
                "--constraints needs constraints in the data, and preprocessed data have none. Give them to "
                "fairseq-interactive, each after a tab behind the sentence"
            )
        if getattr(dataset, "tgt", dataset) is None:
            needs = [name for name in ("prefix_size", "score_reference") if option(name, 0) > 0]
            problems += [f"--{name.replace('_', '-')} needs targets, and the data have none" for name in needs]
    return problems


def input_problems(option: Callable[..., Any]) -> List[str]:
    """Finds generation options that fairseq-interactive, which reads sentences from its input, can't use."""
    problems = []
    if option("score_reference", False):
        problems.append("--score-reference needs references, and fairseq-interactive has none; use fairseq-generate")
    if option("print_alignment") == "soft":
        problems.append("--print-alignment must be hard in fairseq-interactive; soft is for fairseq-generate")
    return problems


def dictionary_problems(option: Callable[..., Any], words: int, lm_words: Optional[int]) -> List[str]:
    """Finds generation options that do not go with the target dictionary.

    Args:
        words: number of symbols in it.
        lm_words: number of symbols in the dictionary of the language model; None without one.
    """
    problems = []
    if option("sampling", False) and option("sampling_topk", -1) > words:
        problems.append(
            f"--sampling-topk must be at most the number of target words, {words}; it is {option('sampling_topk')}"
        )
    if lm_words is not None and lm_words != words:
        problems.append(
            f"--lm-path must have the target dictionary's {words} words; it has {lm_words}. Train it with --tgtdict"
        )
    return problems


def _not_numbers(option: Callable[..., Any]) -> Iterator[str]:
    for name in (*_NUMBERS, "diverse_beam_strength"):
        value = option(name)
        if isinstance(value, float) and math.isnan(value):
            yield f"--{name.replace('_', '-')} must be a number; it is nan"
    for name in ("max_len_a", "lm_weight"):
        if math.isinf(float(option(name, 0))):
            yield f"--{name.replace('_', '-')} must be finite; it is {option(name)}"


def _search_problems(option: Callable[..., Any]) -> List[str]:
    problems = []
    for name in ("sampling_topk", "sampling_topp"):
        value = option(name, -1)
        if value >= 0 and not option("sampling", False):
            problems.append(f"--{name.replace('_', '-')} needs --sampling; it is {value} without. Give both or neither")
    rate = option("diversity_rate", -1)
    searches = {
        "--sampling": option("sampling", False),
        "--match-source-len": option("match_source_len", False),
        "--diverse-beam-groups": option("diverse_beam_groups", -1) > 0,
        "--diversity-rate": rate > 0 or (rate > -1 and option("constraints") is not None),  # as fairseq chooses
        "--constraints": option("constraints") is not None,
    }
    asked = [name for name, is_asked in searches.items() if is_asked]
    if len(asked) > 1:
        problems.append(f"Search parameters are mutually exclusive: choose one of {', '.join(asked)}")
    return problems


def _file_problems(command: CommandLine) -> List[str]:
    problems = []
    replace_unk = command.get("generation", "replace_unk")
    if replace_unk and not _is_there(replace_unk):
        given = "it was given none" if replace_unk == "@@ " else f"there is no file {replace_unk}"
        problems.append(
            "--replace-unk must name a file with a source word and its translation in each line, or be '' to copy the "
            f"source word; {given}"
        )
    lm_path = command.get("generation", "lm_path")
    if lm_path is not None and not _is_there(lm_path):
        problems.append(f"--lm-path must name the checkpoint of a language model; there is no file {lm_path}")
    elif lm_path is not None and not Path(utils.split_paths(str(command.get("task", "data")))[0], "dict.txt").exists():
        problems.append(
            "--lm-path needs the language model's dictionary in DATA, under the name dict.txt; copy it there"
        )
    return problems


def _is_there(path: str) -> bool:
    return "://" in path or Path(path).is_file()


def _program_problems(command: CommandLine) -> List[str]:
    problems = []
    workers = int(command.get("dataset", "num_workers", 0))
    if workers < 0:
        problems.append(f"--num-workers must be at least 0; it is {workers}. 0 loads data in this process")
    seed = command.get("common", "seed", 1)
    if not 0 <= int(seed) < 2**32:
        problems.append(f"--seed must be from 0 to {2**32 - 1}; it is {seed}")
    post_process = command.get("common_eval", "post_process")
    if post_process is not None and post_process not in _POST_PROCESS:
        known = ", ".join(repr(name) if name.endswith(" ") else name for name in _POST_PROCESS)
        problems.append(f"--post-process must be one of {known}; it is {post_process}")
    overrides = command.get("common_eval", "model_overrides", "{}")
    try:
        is_dictionary = isinstance(ast.literal_eval(overrides), dict)
    except (ValueError, SyntaxError):
        is_dictionary = False
    if not is_dictionary:
        problems.append(f"--model-overrides must be a dictionary as in Python, {{'dropout': 0.1}}; it is {overrides}")
    return problems


def data_warning(command: CommandLine, data: Any) -> str:
    """Warns a user who gives several directories as DATA that only the first is read; empty if there is one."""
    paths = utils.split_paths(data) if isinstance(data, str) else []
    if len(paths) < 2 or not command.reads_a_checkpoint:
        return ""
    return f"DATA are {len(paths)} directories, and only the first is read: {paths[0]}. Decode one after the other"
