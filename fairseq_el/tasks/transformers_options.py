"""Options of ``el_*`` tasks that have beam search go by the rules of transformers' ``generate()``."""

# No postponed annotations here: fairseq reads the types of the fields.
import re
from dataclasses import dataclass, field
from typing import Any, Callable, List, Optional, Tuple

from fairseq.dataclass import ChoiceEnum

from fairseq_el.errors import raise_problems
from fairseq_el.generation import TransformersRules

TRANSFORMERS_CHOICES = {
    "el_search": ["fairseq", "transformers"],
    "el_early_stopping": ["true", "false", "never"],
}
Search = ChoiceEnum(TRANSFORMERS_CHOICES["el_search"])
EarlyStopping = ChoiceEnum(TRANSFORMERS_CHOICES["el_early_stopping"])
_INDICES = "numbers of the dictionary's symbols (the first word of dict.txt has 4)"


@dataclass
class TransformersOptions:
    """Options of the search of transformers."""

    el_search: Search = field(  # type: ignore[valid-type]
        default="fairseq",
        metadata={
            "help": "rules of plain beam search: transformers ends, forces and scores hypotheses as generate() does; "
            "the options --el-early-stopping to --el-forbidden-first go with it"
        },
    )
    el_early_stopping: EarlyStopping = field(  # type: ignore[valid-type]
        default="false", metadata={"help": "transformers' early_stopping, with --el-search transformers"}
    )
    el_forced_first: int = field(
        default=-1,
        metadata={"help": "transformers' forced_bos_token_id, the number of a symbol of the dictionary (-1: none)"},
    )
    el_forced_last: int = field(
        default=-1,
        metadata={"help": "transformers' forced_eos_token_id, the number of a symbol of the dictionary (-1: none)"},
    )
    el_forbidden: str = field(
        default="",
        metadata={"help": f"transformers' bad_words_ids and suppress_tokens as 7,8+9: {_INDICES}; 8+9 is 9 after 8"},
    )
    el_forbidden_first: str = field(
        default="", metadata={"help": f"transformers' begin_suppress_tokens as 7,8: {_INDICES}"}
    )


def transformers_rules(
    options: Any, option: Callable[..., Any], size: int, continues_prompts: bool
) -> Optional[TransformersRules]:
    """Makes the rules that the options ask for; None for fairseq's own.

    Args:
        options: options of the task, with those of :class:`TransformersOptions`.
        option: reads an option of the generator, as ``getattr`` without its object.
        size: number of symbols in the dictionary.
        continues_prompts: whether the task is a language model's.

    Raises:
        OptionError: a value is not a symbol's number, or an option does not go with these rules; all are named.
    """
    problems: List[str] = []
    forbidden = _sequences("--el-forbidden", str(options.el_forbidden), size, problems)
    first = _sequences("--el-forbidden-first", str(options.el_forbidden_first), size, problems)
    if any(len(sequence) > 1 for sequence in first):
        problems.append(f"--el-forbidden-first has single symbols; it is {options.el_forbidden_first}")
    forced = [_symbol(name, getattr(options, name), size, problems) for name in ("el_forced_first", "el_forced_last")]
    early = str(options.el_early_stopping)
    rules = TransformersRules(
        early_stopping="never" if early == "never" else early == "true",
        forced_first=forced[0],
        forced_last=forced[1],
        forbidden=forbidden,
        forbidden_first=tuple(sequence[0] for sequence in first),
        continues_prompts=continues_prompts,
    )
    as_transformers = str(options.el_search) == "transformers"
    if not as_transformers and rules != TransformersRules(continues_prompts=continues_prompts):
        problems.append("--el-early-stopping to --el-forbidden-first need --el-search transformers")
    if as_transformers:
        problems += _conflicts(option)
    raise_problems(problems)
    return rules if as_transformers else None


def _conflicts(option: Callable[..., Any]) -> List[str]:
    given = {name: option(name) for name in ("lm_path", "print_alignment", "constraints")}
    given.update({name: option(name, False) for name in ("retain_dropout", "match_source_len", "sampling")})
    given.update({name: (option(name) or -1) > 0 for name in ("diverse_beam_groups", "diversity_rate")})
    return [
        f"--{name.replace('_', '-')} does not go with --el-search transformers; leave one of them out"
        for name, is_given in given.items()
        if is_given
    ]


def is_symbol(number: str, size: int) -> bool:
    """Says whether a text is the number of a symbol, in a dictionary of ``size`` symbols."""
    return re.fullmatch("[0-9]{1,9}", number) is not None and int(number) < size


def _symbol(name: str, index: int, size: int, problems: List[str]) -> Optional[int]:
    if not -1 <= index < size:
        problems.append(
            f"--{name.replace('_', '-')} must be the number of one of the dictionary's {size} symbols, or -1; "
            f"it is {index}"
        )
    return index if index >= 0 else None


def _sequences(option: str, text: str, size: int, problems: List[str]) -> Tuple[Tuple[int, ...], ...]:
    found = []
    for part in filter(None, text.split(",")):
        numbers = part.split("+")
        if not all(is_symbol(number, size) for number in numbers):
            problems.append(f"{option} must have numbers of the dictionary's {size} symbols, as 7,8+9; it has {part!r}")
            continue
        found.append(tuple(map(int, numbers)))
    return tuple(found)
