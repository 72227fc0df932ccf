"""Options that ``el_*`` tasks have beside those of their stock task."""

# No postponed annotations here: fairseq reads the types of the fields.
from argparse import ArgumentError, ArgumentParser
from contextlib import suppress
from dataclasses import dataclass, field, fields
from typing import Any, Optional

from fairseq.dataclass import ChoiceEnum

from fairseq_el.decoding import BACKENDS, DEFAULT_BACKEND, DEFAULT_SELF_ATTENTION
from fairseq_el.dtypes import DTYPES
from fairseq_el.errors import OptionError
from fairseq_el.generation import DEFAULT_ENCODER_TOKENS
from fairseq_el.tasks.transformers_options import TRANSFORMERS_CHOICES, TransformersOptions
from fairseq_el.topk import TopkOptions
from fairseq_el.units import parse_size

CHOICES = {
    **TRANSFORMERS_CHOICES,
    "el_backend": list(BACKENDS),
    "el_dtype": ["as-loaded", *DTYPES],
    "el_ngram_blocking": ["all", "stock"],
    "el_self_attention": ["el", "kv"],
}
Backend = ChoiceEnum(CHOICES["el_backend"])
DType = ChoiceEnum(CHOICES["el_dtype"])
NgramBlocking = ChoiceEnum(CHOICES["el_ngram_blocking"])
SelfAttention = ChoiceEnum(CHOICES["el_self_attention"])


@dataclass
class ELOptions(TransformersOptions, TopkOptions):
    """Options of EL-attention. Put it before a task's configuration: ``class MyConfig(ELOptions, MyTaskConfig)``."""

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
