"""Options that ``el_*`` tasks have beside those of their stock task."""

# No postponed annotations here: fairseq reads the types of the fields.
import re
from argparse import ArgumentError, ArgumentParser
from contextlib import suppress
from dataclasses import dataclass, field, fields
from typing import Any, Callable, List, Optional, Tuple

from fairseq.dataclass import ChoiceEnum

from fairseq_el.decoding import BACKENDS, DEFAULT_BACKEND, DEFAULT_SELF_ATTENTION
from fairseq_el.dtypes import DTYPES
from fairseq_el.errors import OptionError, raise_problems
from fairseq_el.generation import DEFAULT_ENCODER_TOKENS, TransformersRules
from fairseq_el.topk import TopkOptions
from fairseq_el.units import parse_size

CHOICES = {
    "el_search": ["fairseq", "transformers"],
    "el_early_stopping": ["true", "false", "never"],
    "el_backend": list(BACKENDS),
    "el_dtype": ["as-loaded", *DTYPES],
    "el_ngram_blocking": ["all", "stock"],
    "el_self_attention": ["el", "kv"],
    "el_weights": ["as-loaded", "int8"],
    "el_cuda_graphs": ["auto", "on", "off"],
}
Search = ChoiceEnum(CHOICES["el_search"])
EarlyStopping = ChoiceEnum(CHOICES["el_early_stopping"])
Backend = ChoiceEnum(CHOICES["el_backend"])
DType = ChoiceEnum(CHOICES["el_dtype"])
NgramBlocking = ChoiceEnum(CHOICES["el_ngram_blocking"])
SelfAttention = ChoiceEnum(CHOICES["el_self_attention"])
Weights = ChoiceEnum(CHOICES["el_weights"])
CudaGraphs = ChoiceEnum(CHOICES["el_cuda_graphs"])
_INDICES = "numbers of the dictionary's symbols (the first word of dict.txt has 4)"


@dataclass
class ELOptions(TopkOptions):
    """Options of EL-attention. Put it before a task's configuration: ``class MyConfig(ELOptions, MyTaskConfig)``."""

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
    el_backend: Backend = field(  # type: ignore[valid-type]
        default=DEFAULT_BACKEND,
        metadata={
            "help": "what encoder-decoder attention keeps: el nothing but the encoder's output; shared-kv keys and "
            "values of every layer, once for all beams (2 L times as much, less to compute); auto chooses for every "
            "batch, by a cost model (fairseq-el calibrate measures this machine for it)"
        },
    )
    el_memory_budget: str = field(
        default="",
        metadata={
            "help": "what --el-backend auto may keep of the source in one batch, such as 4GiB (default: half of the "
            "memory that is free)"
        },
    )
    el_dtype: DType = field(  # type: ignore[valid-type]
        default="as-loaded",
        metadata={
            "help": "numbers to compute with, on CPU and CUDA; softmax and scores are in fp32 as in stock (default: "
            "fp32, or fp16 with --fp16). What the device lacks falls back to what it has"
        },
    )
    el_weights: Weights = field(  # type: ignore[valid-type]
        default="as-loaded",
        metadata={
            "help": "int8 multiplies by copies of the weights in 8 bits, on a CPU: faster, and not exact. Attention, "
            "norms and scores stay in fp32"
        },
    )
    el_ngram_blocking: NgramBlocking = field(  # type: ignore[valid-type]
        default="all",
        metadata={
            "help": "--no-repeat-ngram-size: all blocks every repeated n-gram; stock does as fairseq 0.12, which "
            "without its CUDA extension blocks none"
        },
    )
    el_self_attention: SelfAttention = field(  # type: ignore[valid-type]
        default=DEFAULT_SELF_ATTENTION,
        metadata={
            "help": "what decoder self-attention keeps of each word: el its hidden state, kv its key and value, which "
            "is twice as much and less to compute"
        },
    )
    el_cuda_graphs: CudaGraphs = field(  # type: ignore[valid-type]
        default="auto",
        metadata={
            "help": "steps of plain beam search on a card: on replays them from CUDA graphs, off launches every kernel "
            "from Python; auto is on where torch has CUDA graphs (2.1 or later)"
        },
    )
    el_encoder_tokens: int = field(
        default=DEFAULT_ENCODER_TOKENS,
        metadata={
            "help": "run the encoder, prompts and the output projection over parts of a batch, with at most this many "
            "positions at a time; results do not depend on it"
        },
    )


def add_el_options(parser: ArgumentParser) -> None:
    """Adds the options to a task that has ``add_args`` instead of a dataclass."""
    for option in fields(ELOptions):
        with suppress(ArgumentError):  # an architecture topk_* has it already; both read the same value
            parser.add_argument(
                "--" + option.name.replace("_", "-"),
                default=option.default,
                type=int if option.default is None else type(option.default),
                choices=CHOICES.get(option.name),
                help=option.metadata["help"],
            )


def el_options(cfg: Any) -> ELOptions:
    """Reads the options in a task's configuration, or their defaults.

    Raises:
        OptionError: a value is out of range.
    """
    options = ELOptions()
    for option in fields(ELOptions):
        setattr(options, option.name, getattr(cfg, option.name, option.default))
    if options.el_encoder_tokens < 1:
        raise OptionError(
            f"--el-encoder-tokens must be at least 1; it is {options.el_encoder_tokens}. It is how many positions the "
            f"encoder has in flight at a time; the default is {DEFAULT_ENCODER_TOKENS}."
        )
    if options.el_weights == "int8" and options.el_dtype not in ("as-loaded", "fp32"):
        raise OptionError(
            f"--el-weights int8 needs --el-dtype fp32 or as-loaded; it is {options.el_dtype}. All but the products is "
            "computed in fp32 then. Leave one of the two options out."
        )
    return options


def memory_budget(options: ELOptions) -> Optional[int]:
    """Reads ``--el-memory-budget`` as bytes; None if it is not given.

    Raises:
        OptionError: it is not a size.
    """
    if not options.el_memory_budget:
        return None
    try:
        return parse_size(options.el_memory_budget)
    except ValueError as error:
        raise OptionError(f"--el-memory-budget: {error}") from error


def transformers_rules(
    options: ELOptions, option: Callable[..., Any], size: int, continues_prompts: bool
) -> Optional[TransformersRules]:
    """Makes the rules that the options ask for; None for fairseq's own.

    Args:
        options: those of the task.
        option: reads an option of the generator: ``option(name, default)`` returns the default if it is not set.
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
